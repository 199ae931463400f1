"""The prefix that all prompts of a batch share is run once: its keys and values serve every row.

Virtual tokens in front and the system turn are the same in every request, so a batch of N rows pays for them once instead of
N times, forwards and backwards (gradients of all rows meet in the one copy). The same numbers up to rounding.
Keys and values that a model holds ready (`LanguageModel.prefix`) stand before it and cost no pass at all.
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


@torch.no_grad()
def key_values(lm: LanguageModel, ids: Sequence[int], virtual_tokens: Tensor | None = None) -> tuple[tuple[Tensor, Tensor], ...]:
    """Return the keys and values of a sequence from position 0 on, 1 x heads x length x width for each layer."""
    cache = DynamicCache(config=lm.network.config)
    given = torch.tensor([list(ids)], device=lm.device)
    lm.body(inputs_embeds=lm.embed(given, virtual_tokens), past_key_values=cache, use_cache=True)
    return tuple((layer.keys, layer.values) for layer in cache.layers)


@dataclass(frozen=True)
class SharedPrefix:
    """Keys and values of one prefix, 1 x heads x length x width for each layer; `length` 0 holds none.

    Attributes:
        length: positions.
        ids: how many of them come of the prompts' first ids; the others are the model's own `prefix`.
        layers: keys and values.
    """

    length: int = 0
    ids: int = 0
    layers: tuple[tuple[Tensor, Tensor], ...] = ()

    @classmethod
    def run(cls, lm: LanguageModel, prompts: Sequence[Sequence[int]], virtual_tokens: Tensor | None) -> "SharedPrefix":
        """Return the model's own prefix with what `prompts` share; gradients flow to it and to `virtual_tokens` where enabled."""
        held = tuple((keys.to(lm.dtype), values.to(lm.dtype)) for keys, values in lm.prefix)
        own = cls(lm.prefix_positions, 0, held)
        shared = common_prefix(prompts)
        if not shared or own.length + shared >= lm.window:
            return own
        ids = torch.tensor([list(prompts[0][:shared])], device=lm.device)
        cache = own.cache(lm, 1)
        lm.body(inputs_embeds=lm.embed(ids, virtual_tokens), past_key_values=cache, use_cache=True)
        return cls(own.length + shared, shared, tuple((layer.keys, layer.values) for layer in cache.layers))

    def cache(self, lm: LanguageModel, rows: int) -> DynamicCache:
        """Return a cache that begins with this prefix in each of `rows` rows."""
        cache: Any = DynamicCache(config=lm.network.config)
        for index, (keys, values) in enumerate(self.layers):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), index)
        return cache
