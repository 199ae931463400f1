"""The fused head on CUDA: figures per token and their gradients by Triton kernels, logits living in registers alone.

The design: a pass streams over tiles of the vocabulary; student and teacher share the head's tile, their logits are products with
float32 sums, and nothing of V's size leaves the chip. The first pass makes both normalisers (online softmax, in stretches of the
vocabulary so that few rows fill a large card), the second the figure and the row sum that its gradient needs, the third slopes.
Slopes alone are written, in the head's type, for a bounded chunk of rows, and the product with the head that makes the gradient
of width D is a library's: D float32 sums for a block of rows do not fit a chip's registers. Recomputing tiles costs products
and spares memory traffic, which is the scarcer: heads are hundreds wide, so a logit is cheap to make and dear to keep.
Not so in float32, which no tensor core multiplies: there a library makes the logits, once, of a bounded chunk (`IN_KERNEL`).
`fused_head` is the same in plain PyTorch and calls this where `supported`; nothing here is imported where Triton is absent.
"""

import math
import os
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from softguard.core.head import Head

SLOPES = 2**26
"""Slopes kept at once, at most: 128 MiB in bf16; 1,344 positions of a vocabulary of 49 thousand, 256 of one of 262 thousand."""
PROGRAMS = 1024
"""Programs of a launch, about: some four waves of a card with 132 multiprocessors that each hold two."""
_KNOWN_PULLS = {"log_prob": 1.0, "forward_kl": -1.0}
"""Row sums of the figures' derivatives with respect to log q that need no pass: a one at the target; minus the sum of p."""


@dataclass(frozen=True)
class Tiling:
    """A program's tile: positions, tokens, numbers of the width at a time; its warps; tiles of the head on their way."""

    rows: int
    tokens: int
    depth: int
    warps: int
    stages: int


IN_KERNEL = (torch.bfloat16, torch.float16)
"""Types of states whose products the kernels make; those of float32 are a library's. Jensen-Shannon and its gradient, 1,280
positions of SmolLM2's head, on an H200: bf16 1.8 ms (a library's products: 3.1), float32 35 ms (a library's: 7.1)."""
HALF = Tiling(64, 128, 64, 4, 3)
"""Of products in the kernel: the fastest of seven on an H200 in bf16, at 320 positions and at 4,096."""
KEPT = Tiling(4, 1024, 16, 4, 1)
"""Of a library's products, which are read and not made."""
LOGITS = 2**24
"""A library's products kept at once for each model, float32: 64 MiB."""


@dataclass(frozen=True)
class Found:
    """N each: figure and log-probability of the target, float32; N x D: the figure's gradient, or None where none was wanted."""

    values: Tensor
    log_probs: Tensor
    gradient: Tensor | None


def supported(head: Head, states: Tensor, teacher_states: Tensor | None) -> bool:
    """Return whether the kernels take these: on CUDA, of one type of at most 32 bits, no columns beyond the head's."""
    tensors = [head.weight, states, *([] if teacher_states is None else [teacher_states])]
    return (
        states.is_cuda
        and available()
        and states.dtype in (torch.bfloat16, torch.float16, torch.float32)
        and head.weight.is_contiguous()
        and all(t.dtype == states.dtype and t.device == states.device and t.shape[1] == head.weight.shape[1] for t in tensors)
    )


@cache
def available() -> bool:
    """Return whether Triton is installed."""
    return find_spec("triton") is not None


def figures(
    figure: str,
    head: Head,
    states: Tensor,
    targets: Tensor,
    teacher_states: Tensor | None,
    omit: tuple[Tensor, Tensor] | None,
    exponent: float,
    *,
    wanted: bool,
    tiling: Tiling | None = None,
    library: bool | None = None,
) -> Found:
    """Return what `fused_head.token_figures` does, without a graph, and the gradient if it is wanted.

    Args:
        wanted: whether the gradient with respect to `states` is.
        tiling: None for the one that was measured to be fast.
        library: take the products from cuBLAS, as a chunk's float32 logits in memory, and not from the kernels; None for
            what was measured to be faster for the states' type, `IN_KERNEL`.
    """
    library = states.dtype not in IN_KERNEL if library is None else library
    tiling = tiling or (KEPT if library else HALF)
    tokens = len(head.weight)
    values, log_probs = (torch.empty(len(states), dtype=torch.float32, device=states.device) for _ in range(2))
    gradient = torch.empty_like(states, memory_format=torch.contiguous_format) if wanted else None
    most = LOGITS // tokens if library else SLOPES // tokens if wanted else len(states)
    chunk = _chunk(len(states), most, tiling.rows)
    slopes = torch.empty(chunk, tokens, dtype=states.dtype, device=states.device) if wanted else None
    omitted = None if omit is None or teacher_states is None or not len(omit[0]) else _by_row(omit, len(states), tokens)
    with torch.cuda.device_of(states):  # type: ignore[no-untyped-call]
        for start in range(0, len(states), chunk):
            rows = slice(start, min(start + chunk, len(states)))
            launch = _Launch(
                figure,
                head,
                _product(states[rows], head.weight) if library else states[rows].contiguous(),
                None
                if teacher_states is None
                else _product(teacher_states[rows], head.weight)
                if library
                else teacher_states[rows].contiguous(),
                targets[rows].contiguous(),
                None if omitted is None else omitted[rows],
                exponent,
                tiling,
                library,
            )
            here = None if slopes is None else slopes[: rows.stop - start]
            values[rows], log_probs[rows] = launch.run(here)
            if gradient is not None and here is not None:
                torch.mm(here, head.weight, out=gradient[rows])
    return Found(values, log_probs, gradient)


def _chunk(count: int, most: int, block: int) -> int:
    """Return how many rows to take at once: chunks alike in size, of whole blocks."""
    chunks = math.ceil(count / max(block, most // block * block))
    return max(1, math.ceil(count / max(1, chunks) / block) * block)


def _product(states: Tensor, weight: Tensor) -> Tensor:
    """Return logits in float32 that were not rounded to the states' type on their way."""
    if states.is_cuda and states.dtype != torch.float32:
        return torch.mm(states, weight.T, out_dtype=torch.float32)
    return states.float() @ weight.float().T


def _by_row(omit: tuple[Tensor, Tensor], count: int, tokens: int) -> Tensor:
    """Return a table count x K of the tokens omitted at each row, each once, -1 where there are fewer; K is a power of 2."""
    pairs = torch.unique(omit[0] * tokens + omit[1])  # sorted, so that the pairs of a row stand together
    index = torch.div(pairs, tokens, rounding_mode="floor")
    place = torch.arange(len(pairs), device=pairs.device) - torch.searchsorted(index, index)
    most = 1 << int(place.max()).bit_length()
    table = torch.full((count, most), -1, dtype=torch.int64, device=pairs.device)
    table[index, place] = pairs - index * tokens
    return table


@dataclass(frozen=True)
class _Launch:
    """A chunk of rows and how to launch kernels on it."""

    figure: str
    head: Head
    states: Tensor
    teacher: Tensor | None
    targets: Tensor
    omitted: Tensor | None
    exponent: float
    tiling: Tiling
    library: bool

    def run(self, slopes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return figures and log-probabilities of the targets; write the slopes if there is room for them."""
        normalisers, log_probs = self._normalisers()
        if self.figure in _KNOWN_PULLS:
            if self.figure == "log_prob" and slopes is None:
                return log_probs, log_probs
            pulls = torch.full_like(log_probs, _KNOWN_PULLS[self.figure])
            values, _ = self._pass(normalisers, pulls, slopes)
        else:
            values, pulls = self._pass(normalisers, None, None)
            if slopes is not None:
                self._pass(normalisers, pulls, slopes)
        return log_probs if self.figure == "log_prob" else values.clamp_(min=0.0), log_probs

    def _normalisers(self) -> tuple[Tensor, Tensor]:
        """Return the log-normalisers of both (2 x n), without what is omitted, and the targets' log-probabilities."""
        from softguard.objectives._triton_kernels import normaliser_kernel

        grid, tiles = self._grid()
        out = torch.empty(grid[1], 5 + self._omissions, len(self.states), dtype=torch.float32, device=self.states.device)
        normaliser_kernel[grid](*self._given(), out, *self._sizes(), tiles, **self._constants())
        student = torch.logsumexp(out[:, 0] + out[:, 1].log(), 0)
        teacher = torch.zeros_like(student) if self.teacher is None else torch.logsumexp(out[:, 2] + out[:, 3].log(), 0)
        whole = student
        if self.omitted is not None:
            apart = out[:, 5:].sum(0).masked_fill_(self.omitted.T < 0, -math.inf)
            whole = torch.logsumexp(torch.cat([student[None], apart]), 0)
        return torch.stack([student, teacher]), out[:, 4].sum(0) - whole

    def _pass(self, normalisers: Tensor, pulls: Tensor | None, slopes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the row sums of the figure and of its derivative with respect to log q; write the slopes if asked to."""
        from softguard.objectives._triton_kernels import figure_kernel

        grid, tiles = self._grid()
        out = torch.empty(grid[1], 2, len(self.states), dtype=torch.float32, device=self.states.device)
        figure_kernel[grid](
            *self._given(),
            normalisers,
            normalisers if pulls is None else pulls,
            self.states if slopes is None else slopes,
            out,
            *self._sizes(),
            float(self.exponent),
            tiles,
            FIGURE=self.figure,
            SLOPES=slopes is not None,
            **self._constants(),
        )
        value, pull = out.sum(0)
        return value, pull

    @property
    def _omissions(self) -> int:
        return 0 if self.omitted is None else self.omitted.shape[1]

    def _grid(self) -> tuple[tuple[int, int], int]:
        """Return blocks of rows by stretches of the vocabulary, blocks first so that neighbours share the head's tiles, and the
        tiles of a stretch."""
        blocks = math.ceil(len(self.states) / self.tiling.rows)
        all_tiles = math.ceil(len(self.head.weight) / self.tiling.tokens)
        tiles = math.ceil(all_tiles / max(1, PROGRAMS // blocks))
        return (blocks, math.ceil(all_tiles / tiles)), tiles

    def _given(self) -> tuple[Tensor, ...]:
        """Return the kernels' first pointers; where there is nothing, one that is never followed."""
        bias = self.states if self.head.bias is None else self.head.bias
        teacher = self.states if self.teacher is None else self.teacher
        return self.states, teacher, self.head.weight, bias, self.targets, self.targets if self.omitted is None else self.omitted

    def _sizes(self) -> tuple[int | float, ...]:
        return len(self.states), len(self.head.weight), float(self.head.scale), float(self.head.softcap or 1.0)

    def _constants(self) -> dict[str, Any]:
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        return {
            "OMIT": self._omissions,
            "PRODUCT": not self.library,
            "BIAS": self.head.bias is not None,
            "SOFTCAP": self.head.softcap is not None,
            "TEACHER": self.teacher is not None,
            "WIDTH": self.head.weight.shape[1],
            "WIDEN": interpreted and self.states.dtype == torch.bfloat16,
            "ROWS": self.tiling.rows,
            "TOKENS": self.tiling.tokens,
            "DEPTH": self.tiling.depth,
            "TILES": self._grid()[1] if interpreted else 0,
            **({} if interpreted else {"num_warps": self.tiling.warps, "num_stages": self.tiling.stages}),
        }
