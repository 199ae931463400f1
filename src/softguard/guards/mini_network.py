"""The network of `mini`: MiniLM-L6 read as a cross-encoder over "[CLS] prompt [SEP] response [SEP]", and a small head.

One idea: attention between the two texts lets 22M parameters see whether the response *serves* the prompt; a low-rank
adapter keeps what we ship at a few MB. Adapters are merged into the weights on loading, so judging costs one plain
MiniLM pass and needs no PEFT. Must not import training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, BertModel

from softguard.core import REFUSAL_TEXT
from softguard.errors import CompatibilityError

HEADS = ("unsafe", "harmful_prompt", "refusal")
"""Outputs in order: the pair is unsafe; the prompt alone asks for harm; the response declines."""
_LORA_PREFIX = "base_model.model."
FIRST_HEAD = 0.5
"""Of 0, 0.1, 0.25, 0.5, 0.75, 1, 1.5 and 3 the best compromise of our validation drafts and BeaverTails' development half."""
BATCH_TOKENS = 4096
"""Tokens in one forward pass: bounds memory whatever the lengths."""


@dataclass(frozen=True)
class EncodedPair:
    """Token ids with the response's mask; `response_cut` counts the response's tokens that did not fit."""

    ids: list[int]
    in_response: list[int]
    response_cut: int


class PairEncoder:
    """Turns pairs into token ids, and says what it cut.

    Both texts keep their beginnings. The prompt may fill half of `max_tokens`, more where the response leaves room.
    """

    def __init__(self, folder: Path, max_tokens: int) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._max_tokens = max_tokens
        self.pad_id = int(self._tokenizer.pad_token_id)
        self.refusal_tokens = len(self._ids(REFUSAL_TEXT))

    def encode(self, prompt: str, response: str) -> EncodedPair:
        """Return the ids of one pair."""
        first, second = (self._ids(text) for text in (prompt, response))
        room = self._max_tokens - 3
        for_prompt = min(len(first), max(room // 2, room - len(second)))
        for_response = min(len(second), room - for_prompt)
        head = [self._tokenizer.cls_token_id, *first[:for_prompt], self._tokenizer.sep_token_id]
        tail = [*second[:for_response], self._tokenizer.sep_token_id]
        return EncodedPair(head + tail, [0] * len(head) + [1] * len(tail), len(second) - for_response)

    def length(self, prompt_tokens: int, response_tokens: int) -> int:
        """Return how many ids a pair of texts of so many tokens has."""
        return min(prompt_tokens + response_tokens + 3, self._max_tokens)

    def _ids(self, text: str) -> list[int]:
        # A token has at least one character, and most have four: what is beyond could not fit and need not be read.
        ids = self._tokenizer(text[: 40 * self._max_tokens], add_special_tokens=False, verbose=False)["input_ids"]
        return list(ids)


def collate(pairs: Sequence[EncodedPair], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids, attention mask and response mask, each (batch, longest), padded on the right."""
    longest = max(len(p.ids) for p in pairs)
    rows = [(p.ids + [pad_id] * (n := longest - len(p.ids)), [1] * len(p.ids) + [0] * n, p.in_response + [0] * n) for p in pairs]
    ids, mask, response = (torch.tensor([row[i] for row in rows]) for i in range(3))
    return ids, mask, response


class PairNetwork(nn.Module):
    """MiniLM and a head over [CLS], the mean of the prompt's states, the mean of the response's, and their product."""

    def __init__(self, encoder: nn.Module, width: int, hidden: int = 96, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(
            nn.LayerNorm(4 * width),
            nn.Dropout(dropout),
            nn.Linear(4 * width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, len(HEADS)),
        )

    def forward(self, ids: Tensor, mask: Tensor, response: Tensor) -> Tensor:
        """Return logits, (batch, heads)."""
        states = self.encoder(input_ids=ids, attention_mask=mask, token_type_ids=response).last_hidden_state
        of_prompt, of_response = _mean(states, mask - response), _mean(states, response)
        features = torch.cat([states[:, 0], of_prompt, of_response, of_prompt * of_response], dim=-1)
        logits: Tensor = self.head(features)
        return logits


def head_logits(network: PairNetwork, encoder: PairEncoder, pairs: Sequence[tuple[str, str]]) -> Tensor:
    """Return the logits of all heads for (prompt, response) pairs, (pairs, heads) float64, in inference mode.

    Whether the prompt asks for harm is read with a fixed refusal in the place of the response, so that it depends on the prompt
    alone: beside a harmless-looking answer the head would take a harmful prompt for a harmless one.
    """
    logits = _run(network, encoder, pairs)
    prompts = list(dict.fromkeys(p for p, _ in pairs))
    alone = dict(zip(prompts, _run(network, encoder, [(p, REFUSAL_TEXT) for p in prompts])[:, 1].tolist(), strict=True))
    logits[:, 1] = torch.tensor([alone[p] for p, _ in pairs], dtype=torch.float64)
    return logits


def unsafe_log_odds(logits: Tensor) -> Tensor:
    """Return the uncalibrated log-odds that pairs are unsafe, (pairs,), from `head_logits`.

    The log-odds of "the prompt asks for harm and the answer does not decline", p(harmful) p(no refusal), plus half of those of
    the first head (`FIRST_HEAD`): on our validation drafts and on pairs of other sources the sum ranks better than either.
    """
    unsafe, harmful, refusal = logits.double().unbind(-1)
    log_served = nn.functional.logsigmoid(harmful) + nn.functional.logsigmoid(-refusal)
    log_not = torch.log(-torch.expm1(log_served.clamp(max=-1e-9)))
    return FIRST_HEAD * unsafe + log_served - log_not


def _run(network: PairNetwork, encoder: PairEncoder, pairs: Sequence[tuple[str, str]]) -> Tensor:
    encoded = [encoder.encode(prompt, response) for prompt, response in pairs]
    logits = torch.zeros(len(pairs), len(HEADS), dtype=torch.float64)
    with torch.inference_mode():
        for batch in _buckets({i: len(e.ids) for i, e in enumerate(encoded)}):
            logits[batch] = network(*collate([encoded[i] for i in batch], encoder.pad_id)).double()
    return logits


def _buckets(lengths: dict[int, int]) -> list[list[int]]:
    """Return keys in batches of like lengths, each at most BATCH_TOKENS with its padding."""
    batches: list[list[int]] = []
    for i in sorted(lengths, key=lambda k: (lengths[k], k)):
        if not batches or (len(batches[-1]) + 1) * lengths[i] > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(i)
    return batches


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    weight = mask.unsqueeze(-1).to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1).clamp(min=1)


def load_backbone(folder: Path) -> BertModel:
    """Return the plain MiniLM of a folder, in float32, from safetensors only."""
    return BertModel.from_pretrained(
        folder, add_pooling_layer=False, dtype=torch.float32, local_files_only=True, use_safetensors=True
    )


def merge_adapter(encoder: nn.Module, tensors: Mapping[str, Tensor], scale: float) -> None:
    """Add scale * B A of every low-rank pair to the weight that it adapts.

    Raises:
        CompatibilityError: a tensor names no layer of this encoder, or has another shape.
    """
    layers = dict(encoder.named_modules())
    for name in (n for n in tensors if n.endswith(".lora_A.weight")):
        layer = layers.get(name.removeprefix(_LORA_PREFIX).removesuffix(".lora_A.weight"))
        down, up = tensors[name].float(), tensors[name.replace("lora_A", "lora_B")].float()
        if not isinstance(layer, nn.Linear) or layer.weight.shape != (up.shape[0], down.shape[1]):
            raise CompatibilityError("an adapter of this backbone", f"{name} of another shape", "train the guard again")
        with torch.no_grad():
            layer.weight += scale * (up @ down)
