"""Softmax attention of grouped heads with a gradient of its own: fewer passes over the scores than autograd's.

The weights are kept in the states' type and nothing else of the scores' size: autograd would keep and copy them in float32. With
one head for each key it is plain attention. Heads that share a key head are stacked along the length: BG x (H/G T) x d.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Return what each query attends to, B x H x T x d; differentiable once.

    Args:
        query: B x H x T x d.
        key: B x G x S x d, G a divisor of H.
        value: as `key`.
        mask: additive, broadcast over B x H x T x S, or None.
        scale: of the products.
    """
    attended: Tensor = _Attend.apply(query, key, value, mask, scale)  # type: ignore[no-untyped-call]
    return attended


def weights_of(stacked: Tensor, keys: Tensor, mask: Tensor | None, heads: int) -> Tensor:
    """Return the softmax of the scores, BG x (H/G T) x S, given scaled queries, keys BG x S x d and a mask B x 1 x T x S."""
    scores = torch.bmm(stacked, keys.transpose(1, 2))
    if mask is not None:
        scores.view(-1, heads, mask.shape[2], mask.shape[3]).add_(mask)
    return torch.softmax(scores, -1)  # float32 within, whatever goes in and out


def gradients(
    sent: Tensor, stacked: Tensor, weights: Tensor, keys: Tensor, values: Tensor, scale: float
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return the gradients of queries, and of keys and values, given that of what was attended, BG x (H/G T) x d."""
    by_weight = torch.bmm(sent, values.transpose(1, 2))
    by_score = torch._softmax_backward_data(by_weight, weights, -1, weights.dtype)
    by_value = torch.bmm(weights.transpose(1, 2), sent)
    return torch.bmm(by_score, keys).mul_(scale), (torch.bmm(by_score.transpose(1, 2), stacked), by_value)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        rows, groups = key.shape[:2]
        stacked, keys, values = (x.reshape(rows * groups, -1, x.shape[3]) for x in (query, key, value))
        stacked = stacked * scale
        if mask is not None:
            mask = mask.expand(rows, 1, query.shape[2], key.shape[2])
        weights = weights_of(stacked, keys, mask, query.shape[1])
        ctx.save_for_backward(stacked, keys, values, weights)
        ctx.scale, ctx.shapes = scale, (query.shape, key.shape, value.shape)
        return torch.bmm(weights, values).view(*query.shape[:3], value.shape[3])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *incoming: Tensor) -> tuple[Tensor | None, ...]:
        stacked, keys, values, weights = ctx.saved_tensors
        sent = incoming[0].reshape(len(stacked), -1, values.shape[2])
        by_query, (by_key, by_value) = gradients(sent, stacked, weights, keys, values, ctx.scale)
        query, key, value = ctx.shapes
        return by_query.view(query), by_key.view(key), by_value.view(value), None, None
