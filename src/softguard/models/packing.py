"""Sequences side by side in one row of tokens: no padding goes through a network's linear layers.

A row begins with what all sequences share, run once in the same pass; each of the others sees that and itself. Attention alone
is taken apart again, in groups of nearly equal length. It reaches the kernel ("grouped" and "fused", `attention`) beside the
network, whose own code knows nothing of it: the network gets positions and a mask that nobody reads.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from softguard.models.attending import gradients, weights_of

LONGER = 1.25
"""How much longer the longest sequence of a group may be than its shortest."""
ALIGNED = 32
"""Keys are padded to a multiple of this: PyTorch's softmax over 148 bfloat16 numbers takes longer than over 160."""


@dataclass(frozen=True)
class Group:
    """B sequences, padded to L tokens.

    Attributes:
        rows: B.
        first: where the group begins in the row.
        grid: B L, where the tokens are in the row; padding points at the sequence's first.
        real: which of the grid's places are no padding.
        keep: B L, 1 for these and 0 for padding.
        mask: B x 1 x L x (P + L), additive.
    """

    rows: int
    first: int
    grid: Tensor
    real: Tensor
    keep: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Packing:
    """A row of N tokens: the P first are shared, the others those of the groups, one after the other.

    Attributes:
        shared: P.
        groups: in the order of the row, that of the shared tokens first where there are any.
        fused: whether what stands between the products takes one pass over memory each (`models.fused`).
    """

    shared: int
    groups: tuple[Group, ...]
    fused: bool = False

    @classmethod
    def of(
        cls, shared: int, branches: Sequence[Sequence[int]], dtype: torch.dtype, device: torch.device, *, fused: bool
    ) -> "Packing":
        """Return the packing of sequences, sorted by length, given the branch of each of their tokens.

        A token sees the shared ones and, of those before it in its sequence, its own branch and branch 0.
        """
        groups = [_group([[0] * shared], 0, 0, dtype, device)] if shared else []
        start, first = shared, 0
        while first < len(branches):
            last = first
            while last < len(branches) and len(branches[last]) <= LONGER * len(branches[first]):
                last += 1
            groups.append(_group(branches[first:last], start, shared, dtype, device))
            start += sum(map(len, branches[first:last]))
            first = last
        return cls(shared, tuple(groups), fused)


def _group(branches: Sequence[Sequence[int]], start: int, shared: int, dtype: torch.dtype, device: torch.device) -> Group:
    lengths = [len(b) for b in branches]
    width = -(-(shared + max(lengths)) // ALIGNED) * ALIGNED - shared
    branch = torch.tensor([[*b, *[-1] * (width - len(b))] for b in branches], device=device)
    seen = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    seen &= torch.ones(width, width, dtype=torch.bool, device=device).tril()
    seen = torch.cat([seen.new_ones(len(branches), width, shared), seen], 2)[:, None]
    begins = torch.tensor([start + sum(lengths[:k]) for k in range(len(lengths))], device=device)
    real = branch.flatten() >= 0
    place = torch.arange(width, device=device).repeat(len(lengths)).where(real, 0)
    mask = torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    grid = begins.repeat_interleave(width) + place
    return Group(len(lengths), start, grid, real.nonzero().squeeze(1), real.to(dtype), mask)


_CURRENT: ContextVar[Packing | None] = ContextVar("packing", default=None)


def current() -> Packing | None:
    """Return the packing of the pass under way, None where rows are rows."""
    return _CURRENT.get()


@contextmanager
def packed(packing: Packing) -> Iterator[None]:
    """Let the kernel attend by `packing` for the length of a `with` block."""
    token = _CURRENT.set(packing)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def attend_packed(query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float) -> Tensor:
    """Return what each token of a row attends to, 1 x N x H x d, given 1 x H x N x d and 1 x G x N x d; differentiable once."""
    attended: Tensor = _AttendPacked.apply(query, key, value, packing, scale)  # type: ignore[no-untyped-call]
    return attended


class _AttendPacked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float) -> Tensor:
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # N x heads x d
        heads, groups = q.shape[1], k.shape[1]
        out, kept = q.new_empty(*q.shape[:2], v.shape[2]), []
        for group in packing.groups:
            shared = packing.shared if group.first else 0
            stacked = _queries(q, group.grid, group.rows, groups, scale)
            keys = _keys(k, group.grid, group.rows, shared)
            values = _keys(v, group.grid, group.rows, shared)
            weights = weights_of(stacked, keys, group.mask, heads)
            _put(out, torch.bmm(weights, values), group)
            kept += [stacked, keys, values, weights]
        ctx.save_for_backward(*kept)
        ctx.packing, ctx.scale, ctx.key_heads = packing, scale, groups
        return out[None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *incoming: Tensor) -> tuple[Tensor | None, ...]:
        packing, groups, kept = ctx.packing, ctx.key_heads, ctx.saved_tensors
        given, shared = incoming[0][0], packing.shared  # N x H x d
        widths = [x.shape[2] for x in kept[1:3]]  # of keys, and of values, which may be others
        by_query = given.new_empty(*given.shape[:2], widths[0])
        by_key, by_value = (given.new_empty(len(given), groups, width) for width in widths)
        from_others = [given.new_zeros(shared, groups, width) for width in widths]
        for at, group in reversed([*enumerate(packing.groups)]):  # the shared tokens last
            stacked, keys, values, weights = kept[4 * at : 4 * at + 4]
            sent = _sent(given, group.grid, group.keep, group.rows, groups)
            found, by_keys = gradients(sent, stacked, weights, keys, values, ctx.scale)
            _put(by_query, found, group)
            for k, (out, of_keys) in enumerate(zip((by_key, by_value), by_keys, strict=True)):
                own = of_keys.view(group.rows, groups, -1, of_keys.shape[2])
                if group.first:
                    from_others[k] += own[:, :, :shared].sum(0).transpose(0, 1)
                    own = own[:, :, shared:]
                _put(out, own.flatten(0, 1), group)
        for out, sent_back in zip((by_key, by_value), from_others, strict=True):
            out[:shared] += sent_back
        return (*(x.transpose(0, 1)[None] for x in (by_query, by_key, by_value)), None, None)


def _queries(tokens: Tensor, grid: Tensor, rows: int, groups: int, scale: float) -> Tensor:
    """N x H x d -> B G x (H/G L) x d, scaled."""
    return _stacked(tokens.index_select(0, grid) * scale, rows, groups)


def _sent(tokens: Tensor, grid: Tensor, keep: Tensor, rows: int, groups: int) -> Tensor:
    """As `_queries`, of gradients: a pad repeats a token, whose gradient must count once."""
    return _stacked(tokens.index_select(0, grid) * keep[:, None, None], rows, groups)


def _stacked(taken: Tensor, rows: int, groups: int) -> Tensor:
    """B L x H x d -> B G x (H/G L) x d."""
    by_head = taken.view(rows, -1, *taken.shape[1:]).transpose(1, 2)
    return by_head.reshape(rows * groups, -1, taken.shape[2])


def _keys(tokens: Tensor, grid: Tensor, rows: int, shared: int) -> Tensor:
    """N x G x d -> B G x (P + L) x d."""
    heads, width = tokens.shape[1], tokens.shape[2]
    own = tokens.index_select(0, grid).view(rows, -1, heads, width)
    front = tokens[:shared].expand(rows, -1, -1, -1)
    return torch.cat([front, own], 1).transpose(1, 2).reshape(rows * heads, -1, width)


def _tokens(heads: Tensor, real: Tensor, rows: int) -> Tensor:
    """B G x (r L) x d, L tokens and G r heads in each row -> M x (G r) x d, the real ones."""
    return heads.view(rows, -1, heads.shape[1], heads.shape[2]).transpose(1, 2).flatten(0, 1).index_select(0, real)


def _put(out: Tensor, found: Tensor, group: Group) -> None:
    """Write what was found for the tokens of a group where they are in the row."""
    length = len(group.grid) // group.rows
    by_head = found.reshape(-1, length, found.shape[2])
    out[group.first : group.first + len(group.real)] = _tokens(by_head, group.real, group.rows)
