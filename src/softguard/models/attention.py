"""Eager attention without the copies of keys and values that grouped-query models make for each head.

Query heads that share a key head are stacked along the length, so that one product serves them all: SmolLM2 (9 heads on 3) would
copy its whole cache three times for each token.
Registered with transformers as "grouped"; the same numbers as "eager" up to rounding.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

GROUPED = "grouped"


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return the attended values, B x T x H x d, as transformers' attention functions do.

    Args:
        module: the attention layer, not used.
        query: B x H x T x d.
        key: B x G x S x d, G a divisor of H.
        value: B x G x S x d.
        attention_mask: additive, broadcast over B x H x T x S, or None.
        scaling: of the products, 1 / sqrt(d) by default.
        dropout: must be 0, since frozen models run in evaluation mode.
        softcap: Gemma 2's bound on the scores.
    """
    assert not dropout
    rows, heads, length, width = query.shape
    groups = key.shape[1]
    stacked = query.reshape(rows, groups, -1, width) * (width**-0.5 if scaling is None else scaling)
    scores = torch.matmul(stacked, key.transpose(2, 3)).view(rows, heads, length, -1)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
    attended = torch.matmul(weights.view(rows, groups, -1, weights.shape[-1]), value)
    return attended.view(rows, heads, length, width).transpose(1, 2), None


def attention_for(config: Any, chosen: str) -> str:
    """Return `chosen`, or "eager" where "grouped" has nothing to save: every head has keys of its own."""
    heads, groups = getattr(config, "num_attention_heads", 1), getattr(config, "num_key_value_heads", None)
    return "eager" if chosen == GROUPED and (groups is None or groups == heads) else chosen


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, eager_mask)
