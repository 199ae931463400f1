"""The network of `mini`: MiniLM-L6 read as a cross-encoder over "[CLS] prompt [SEP] response [SEP]", and two small heads.

One idea: the response attends to both texts, so 22M parameters see whether it *serves* the prompt; the prompt attends to
itself only, so what is said of it is the same beside every response, and one pass answers both questions. A low-rank
adapter keeps what we ship at a few MB. Adapters are merged into the weights on loading: judging costs one plain MiniLM
pass and needs no PEFT. Must not import training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, BertModel

from softguard.errors import CompatibilityError
from softguard.models import fast_dtype

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
    """MiniLM and two heads.

    `head` reads [CLS], the mean of the prompt's states, the mean of the response's, and the product of both means, and says
    whether the pair is unsafe and whether the response declines. `prompt_head` reads the first two, which no response reaches.
    """

    def __init__(self, encoder: nn.Module, width: int, hidden: int = 96, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = _head(4 * width, hidden, 2, dropout)
        self.prompt_head = _head(2 * width, hidden, 1, dropout)

    def forward(self, ids: Tensor, mask: Tensor, response: Tensor) -> Tensor:
        """Return logits, (batch, heads) float32."""
        states = self._states(ids, mask, response)
        of_prompt, of_response = _mean(states, mask - response), _mean(states, response)
        alone = torch.cat([states[:, 0], of_prompt], dim=-1)
        pair = self.head(torch.cat([alone, of_response, of_prompt * of_response], dim=-1))
        return torch.cat([pair[:, :1], self.prompt_head(alone), pair[:, 1:]], dim=-1)

    def _states(self, ids: Tensor, mask: Tensor, response: Tensor) -> Tensor:
        of_prompt = (mask - response).bool()[:, None, None, :]
        seen = of_prompt | (mask.bool()[:, None, None, :] & response.bool()[:, None, :, None])
        dtype = next(self.encoder.parameters()).dtype
        # In four dimensions, so that the encoder takes it as it is, and of floats, which every attention kernel adds.
        added = torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
        states: Tensor = self.encoder(input_ids=ids, attention_mask=added, token_type_ids=response).last_hidden_state
        return states.float()


def _head(width: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    layers = (nn.LayerNorm(width), nn.Dropout(dropout), nn.Linear(width, hidden), nn.GELU())
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(hidden, outputs))


def head_logits(network: PairNetwork, encoder: PairEncoder, pairs: Sequence[tuple[str, str]]) -> Tensor:
    """Return the logits of all heads for (prompt, response) pairs, (pairs, heads) float64, in inference mode."""
    encoded = [encoder.encode(prompt, response) for prompt, response in pairs]
    logits = torch.zeros(len(pairs), len(HEADS), dtype=torch.float64)
    with torch.inference_mode():
        for batch in _buckets({i: len(e.ids) for i, e in enumerate(encoded)}):
            logits[batch] = network(*collate([encoded[i] for i in batch], encoder.pad_id)).double()
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


def load_network(folder: Path, tensors: Mapping[str, Tensor], scale: float, hidden: int) -> PairNetwork:
    """Return the network of shipped tensors on the backbone of a folder, merged, for judging only.

    The encoder is held in the dtype that is fast here (`fast_dtype`).

    Raises:
        CompatibilityError: a tensor is missing, or has another shape than this version's.
    """
    encoder = load_backbone(folder)
    merge_adapter(encoder, tensors, scale)
    network = PairNetwork(encoder, encoder.config.hidden_size, hidden)
    heads = {n: t for n, t in network.state_dict().items() if not n.startswith("encoder.")}
    found = {n: t.float() for n, t in tensors.items() if n in heads}
    if wrong := [n for n, t in heads.items() if n not in found or found[n].shape != t.shape]:
        absent = f"{', '.join(wrong)} absent or of another shape"
        raise CompatibilityError("the heads of this version's network", absent, "train the guard again: `softguard guard train`")
    network.load_state_dict(network.state_dict() | found)
    encoder.to(fast_dtype("cpu"))
    return network.eval().requires_grad_(False)
