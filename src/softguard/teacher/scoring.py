"""How probable given responses are to the base model: the reference of preferences."""

from collections.abc import Sequence

import torch

from softguard.models import LanguageModel, response_states

ROWS = 16
"""Responses whose logits are held together."""


@torch.inference_mode()
def response_log_probs(lm: LanguageModel, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> list[float]:
    """Return log p(response | prompt) of each pair, the sum over its tokens in nats."""
    out: list[float] = []
    for start in range(0, len(prompts), ROWS):
        part = slice(start, start + ROWS)
        scored = response_states(lm, prompts[part], responses[part])
        logits = lm.head(scored.states)
        each = logits.gather(1, scored.targets[:, None]).squeeze(1) - logits.logsumexp(-1)
        out += each.new_zeros(len(prompts[part])).index_add(0, scored.row, each).tolist()
    return out
