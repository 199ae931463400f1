"""Features of pairs from frozen networks, kept in the work folder part by part: a kill loses one part."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from softguard.core import Conversation
from softguard.guards.measuring import LabelledPair
from softguard.guards.mini_network import PairEncoder, collate, load_backbone
from softguard.models import ChatRenderer, LanguageModel, load_model
from softguard.models.scoring import token_budget_batches
from softguard.sources import resolve

Features = NDArray[np.float32]
PART = 64
MAX_TOKENS = 128
"""Of prompt and answer, with what the chat template writes around them."""
LAYERS = (9, 14, 19)
"""Of the base model's 30 blocks, whose outputs are read; the blocks after the next one are not run."""


def kept(work: Path, name: str, pairs: Sequence[LabelledPair], extract: Callable[[Sequence[LabelledPair]], Features]) -> Features:
    """Return the features of pairs, from files where they are; `name` says how they are made."""
    folder = work / "features" / name
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in range(0, len(pairs), PART):
        part = pairs[start : start + PART]
        key = hashlib.sha256(json.dumps([[p.prompt, p.response] for p in part]).encode()).hexdigest()[:24]
        path = folder / f"{key}.npy"
        if not path.exists():
            unfinished = folder / f"{key}.partial.npy"
            np.save(unfinished, extract(part).astype(np.float16))
            unfinished.rename(path)
        parts.append(np.load(path).astype(np.float32))
    return np.concatenate(parts)


class BaseStates:
    """States of the base model over its own prompt and answer: what a guarded system has computed anyway."""

    def __init__(self, reference: str = "smollm2-135m") -> None:
        self.lm: LanguageModel = load_model(reference)
        body = self.lm.network.base_model
        body.layers = body.layers[: max(LAYERS) + 2]
        self._renderer = ChatRenderer(self.lm.tokenizer)

    @torch.inference_mode()
    def __call__(self, pairs: Sequence[LabelledPair]) -> Features:
        """Return for each pair, of every layer in `LAYERS`: mean over the prompt, mean over the answer, last state."""
        rows = [self.encode(p) for p in pairs]
        out: list[Features | None] = [None] * len(pairs)
        for batch in token_budget_batches([len(ids) for ids, _ in rows], 2048):
            width = max(len(rows[i][0]) for i in batch)
            ids = torch.tensor([[*rows[i][0], *[0] * (width - len(rows[i][0]))] for i in batch], device=self.lm.device)
            states = self.lm.body(inputs_embeds=self.lm.embed(ids), use_cache=False, output_hidden_states=True)
            layers = [states.hidden_states[k + 1] for k in LAYERS]
            for row, i in enumerate(batch):
                length, begins = len(rows[i][0]), rows[i][1]
                found = []
                for layer in layers:
                    own = layer[row, :length].float()
                    found += [own[:begins].mean(0), own[begins:].mean(0), own[-1]]
                out[i] = torch.cat(found).cpu().numpy()
        return np.stack([o for o in out if o is not None])

    def encode(self, pair: LabelledPair) -> tuple[list[int], int]:
        """Return the ids of prompt, answer and turn end, and where the answer begins; both keep their beginnings."""
        prompt = self._renderer.render(Conversation.from_prompt(pair.prompt)).ids[: MAX_TOKENS // 2]
        answer = self._renderer.encode_response(pair.response)[: MAX_TOKENS - len(prompt) - 1]
        return [*prompt, *answer, self.lm.turn_end_id], len(prompt)


class MiniLmStates:
    """MiniLM as it is: prompt and answer read apart, as the sentence encoder that it was trained to be."""

    def __init__(self) -> None:
        folder = resolve("minilm-l6").path
        self._encoder, self._network = PairEncoder(folder, 192), load_backbone(folder).eval()
        self.num_parameters = sum(p.numel() for p in self._network.parameters())

    @torch.inference_mode()
    def __call__(self, pairs: Sequence[LabelledPair]) -> Features:
        """Return for each pair: the sentence vectors p and a of prompt and answer, |p - a| and p * a."""
        p, a = self._sentences([x.prompt for x in pairs]), self._sentences([x.response for x in pairs])
        return np.concatenate([p, a, np.abs(p - a), p * a], axis=1)

    def _sentences(self, texts: Sequence[str]) -> Features:
        encoded = [self._encoder.encode(text, "") for text in texts]
        out = np.zeros((len(texts), int(self._network.config.hidden_size)), dtype=np.float32)
        for batch in token_budget_batches([len(e.ids) for e in encoded], 4096):
            ids, mask, _ = collate([encoded[i] for i in batch], self._encoder.pad_id)
            states = self._network(input_ids=ids, attention_mask=mask).last_hidden_state
            mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            out[batch] = torch.nn.functional.normalize(mean, dim=-1).numpy()
        return out
