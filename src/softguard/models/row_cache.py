"""Keys and values of rows that come and go, written in place.

Column c of a row holds its position c: rows of unlike lengths stand side by side without padding in front, so a row may enter
beside others that are far ahead, and windows are cut by position. What stands behind a row's end is masked until it is written.
transformers' own cache would copy all it holds for each token, and again whenever a row leaves.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from softguard.models.shared_prefix import SharedPrefix

ROOM = 64
"""Columns beyond need, or a quarter where that is more, when the buffers grow: an answer may end long before its limit."""


class RowCache(Cache):  # type: ignore[misc]
    """Room for so many rows; the first `live` of them are in use.

    Each pass of the network is announced by `enter` (new rows) or `advance` (one more token for all). The buffers are zero at
    first, since a masked value that is no number would still spoil the sum.

    Args:
        prefix: what every row begins with.
        rows: at most this many at a time.
    """

    def __init__(self, prefix: SharedPrefix, rows: int) -> None:
        super().__init__(layers=[])
        self.live = 0
        self._prefix, self._rows = prefix, rows
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}
        self._width = self._first = 0
        self._at: tuple[Tensor, Tensor] | None = None

    def enter(self, rows: int, length: int) -> None:
        """Let the next pass give `rows` new rows `length` columns behind the prefix."""
        self._first, self._at, self._width = self.live, None, self._prefix.length + length
        self.live += rows

    def advance(self, positions: Tensor, width: int) -> None:
        """Let the next pass give every live row the column at its position, below `width`."""
        self._first, self._width = 0, width
        self._at = torch.arange(self.live, device=positions.device), positions

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Drop all rows but these; returns which of them stands in each place now: the last ones move into the gaps."""
        kept, order = set(rows), list(range(len(rows)))
        gaps, movers = [r for r in order if r not in kept], [r for r in rows if r >= len(rows)]
        for gap, mover in zip(gaps, movers, strict=True):
            order[gap] = mover
        if gaps:
            for held in (*self._keys.values(), *self._values.values()):
                held[gaps] = held[movers]
        self.live = len(rows)
        return order

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write what a layer has made, and return all that it may look at: views, rows x heads x width x d."""
        before = self._prefix.layers[layer_idx] if self._prefix.length else (None, None)
        keys = self._written(self._keys, layer_idx, key_states, before[0])
        return keys, self._written(self._values, layer_idx, value_states, before[1])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the columns before this pass's first; networks ask for it only where they are given no positions."""
        return self._prefix.length if self._at is None else self._width - 1

    def _written(self, buffers: dict[int, Tensor], layer: int, given: Tensor, before: Tensor | None) -> Tensor:
        held = buffers.get(layer)
        if held is None or held.shape[2] < self._width:
            columns = self._width + max(ROOM, self._width // 4)
            grown = given.new_zeros(self._rows, given.shape[1], columns, given.shape[3])
            if held is not None:
                grown[:, :, : held.shape[2]] = held
            buffers[layer] = held = grown
        rows = slice(self._first, self.live)
        if self._at is not None:
            held[self._at[0], :, self._at[1]] = given[:, :, 0]
        else:
            if before is not None:
                held[rows, :, : before.shape[2]] = before
            held[rows, :, self._prefix.length : self._width] = given
        return held[rows, :, : self._width]
