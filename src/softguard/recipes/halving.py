"""Batches that fit the memory: one that does not is halved, and so are those after it.

CUDA raises a type of its own, CPU and MPS a plain RuntimeError that says so. Must not know what is made of a batch.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

_TEXTS = ("not enough memory", "DefaultCPUAllocator", "MPS backend out of memory")


def in_batches(
    items: Sequence[T],
    most: int,
    make: Callable[[Sequence[T]], Sequence[R]],
    first: Callable[[Sequence[T]], Sequence[T]] = lambda rest: rest,
) -> Iterator[tuple[Sequence[T], Sequence[R]]]:
    """Yield the batches of `items`, in order, each with what `make` made of it.

    One item alone for which there is no memory is an error.

    Args:
        items: what is made of.
        most: items of a batch, at most.
        make: gives one result for each item of a batch.
        first: gives the first of at most so many items that go together, at least one.
    """
    done = 0
    while done < len(items):
        batch = first(items[done : done + most])
        try:
            made = make(batch)
        except RuntimeError as error:
            if len(batch) == 1 or not out_of_memory(error):
                raise
            made = None
        if made is None:  # the error has gone, and with it what its traceback held
            most = len(batch) // 2
            _give_back()
            continue
        done += len(batch)
        yield batch, made


def out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error says that there is no memory."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _TEXTS)


def _give_back() -> None:
    """Give back what a failed batch left, in pieces of its size, with PyTorch's allocators."""
    torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
