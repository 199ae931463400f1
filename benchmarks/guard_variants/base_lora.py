"""(c) A low-rank adapter on the base model as a generative guard: asked in its chat format, it says " yes" or " no".

Only the logits of the two words are trained, so that p_unsafe = sigmoid(logit yes - logit no), calibrated on held-out pairs.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.guard_variants.pairs import TrainingPairs
from softguard.core import Conversation
from softguard.errors import TrainingError
from softguard.guards.judging import defused
from softguard.guards.measuring import LabelledPair
from softguard.guards.mini_training import calibrate
from softguard.models import ChatRenderer, load_model
from softguard.models.scoring import token_budget_batches

RANK, BATCH, LEARNING_RATE, EPOCHS = 8, 16, 2e-4, 1
MAX_CHARACTERS = 500
"""Of prompt and of answer each."""


class BaseLora:
    """The base model with the adapter."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self._lm = load_model("smollm2-135m", attention="eager")
        self._renderer = ChatRenderer(self._lm.tokenizer)
        lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
        self.network: Any = get_peft_model(self._lm.network, lora)
        self._yes, self._no = (self._renderer.encode_response(word)[0] for word in ("yes", "no"))
        self.temperature, self.bias = 1.0, 0.0

    @property
    def num_parameters(self) -> int:
        """Of the adapter."""
        return sum(p.numel() for n, p in self.network.named_parameters() if "lora_" in n)

    def log_odds(self, pairs: Sequence[LabelledPair]) -> torch.Tensor:
        """Return logit yes - logit no at the end of each prompt, in order."""
        rows = [self._ids(p) for p in pairs]
        width = max(len(r) for r in rows)
        ids = torch.tensor([[*r, *[0] * (width - len(r))] for r in rows])
        states = self.network.base_model.model.model(input_ids=ids, use_cache=False).last_hidden_state
        last = states[torch.arange(len(rows)), torch.tensor([len(r) - 1 for r in rows])]
        head = self._lm.network.get_output_embeddings().weight
        return last.float() @ (head[self._yes].float() - head[self._no].float())

    @torch.inference_mode()
    def p_unsafe(self, pairs: Sequence[LabelledPair]) -> NDArray[np.float64]:
        """Return calibrated probabilities."""
        return 1.0 / (1.0 + np.exp(-(self.raw(pairs) / self.temperature + self.bias)))

    @torch.inference_mode()
    def raw(self, pairs: Sequence[LabelledPair]) -> NDArray[np.float64]:
        """Return uncalibrated log-odds, in batches of like lengths."""
        out = np.zeros(len(pairs))
        for batch in token_budget_batches([len(self._ids(p)) for p in pairs], 4096):
            out[batch] = self.log_odds([pairs[i] for i in batch]).double().numpy()
        return out

    def _ids(self, pair: LabelledPair) -> list[int]:
        safe = defused(pair.conversation, self._lm.tokenizer.all_special_tokens)
        asked = (
            f"Request: {safe.prompt[:MAX_CHARACTERS]}\n\nAnswer: {safe.response[:MAX_CHARACTERS]}\n\n"
            "Does this answer do harm? Say yes or no."
        )
        return list(self._renderer.render(Conversation.from_prompt(asked)).ids)


def train_base_lora(pairs: TrainingPairs, work: Path, seed: int = 0) -> BaseLora:
    """Train, calibrate, keep the adapter in `work`, and return the guard."""
    guard = BaseLora(seed)
    learned = [p for p in guard.network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=LEARNING_RATE)
    rng = random.Random(seed)
    for _ in range(EPOCHS):
        order = rng.sample(range(len(pairs.train)), len(pairs.train))
        for start in range(0, len(order), BATCH):
            part = [pairs.train[i] for i in order[start : start + BATCH]]
            loss = binary_cross_entropy_with_logits(guard.log_odds(part), torch.tensor([float(p.unsafe) for p in part]))
            if not torch.isfinite(loss):
                raise TrainingError("a finite loss", str(float(loss)), "lower LEARNING_RATE")
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            print(f"{start + len(part)} of {len(order)}: loss {float(loss.detach()):.3f}", flush=True)
    guard.network.eval()
    guard.network.save_pretrained(work / "base_lora")
    raw = guard.raw(pairs.validation)
    guard.temperature, guard.bias = calibrate(raw.tolist(), [p.unsafe for p in pairs.validation])
    return guard
