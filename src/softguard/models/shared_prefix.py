"""The prefix that all prompts of a batch share is run once: its keys and values serve every row.

Virtual tokens in front and the system turn are the same in every request, so a batch of N rows pays for them once instead of
N times, forwards and backwards (gradients of all rows meet in the one copy). The same numbers up to rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from softguard.models.language_model import LanguageModel

SHORTEST = 8
"""Prefixes below this many positions are not worth a pass of their own."""


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many first ids all prompts share, at least one id short of the shortest; 0 where sharing saves nothing."""
    if len(prompts) < 2:
        return 0
    first, last = min(prompts, key=list), max(prompts, key=list)  # in lexical order, what these two share, all share
    limit = min(len(p) for p in prompts) - 1
    length = next((i for i in range(limit) if first[i] != last[i]), limit)
    return length if length >= SHORTEST else 0


@dataclass(frozen=True)
class SharedPrefix:
    """Keys and values of one prefix, 1 x heads x length x width for each layer; `length` 0 holds none."""

    length: int
    layers: tuple[tuple[Tensor, Tensor], ...] = ()

    @classmethod
    def run(cls, lm: LanguageModel, prompts: Sequence[Sequence[int]], virtual_tokens: Tensor | None) -> "SharedPrefix":
        """Return the prefix that `prompts` share; gradients flow to `virtual_tokens` where enabled."""
        length = common_prefix(prompts)
        if not length or length >= lm.window:
            return cls(0)
        ids = torch.tensor([list(prompts[0][:length])], device=lm.device)
        cache = DynamicCache(config=lm.network.config)
        lm.body(inputs_embeds=lm.embed(ids, virtual_tokens), past_key_values=cache, use_cache=True)
        return cls(length, tuple((layer.keys, layer.values) for layer in cache.layers))

    def cache(self, lm: LanguageModel, rows: int) -> DynamicCache:
        """Return a cache that begins with this prefix in each of `rows` rows."""
        cache: Any = DynamicCache(config=lm.network.config)
        for index, (keys, values) in enumerate(self.layers):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), index)
        return cache
