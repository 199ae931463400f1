"""Batches are halved where memory runs out, nothing is lost, and no other error is taken for it."""

import pytest
import torch

from softguard.recipes.halving import in_batches, out_of_memory

NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8"
    ),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB, other allocations: 1.00 MB, max allowed: 9.07 GB)."),
]


def doubling(room: int, error: RuntimeError, asked: list[int]):
    """Something with memory for few items at a time."""

    def make(batch):
        asked.append(len(batch))
        if len(batch) > room:
            raise error
        return [2 * i for i in batch]

    return make


@pytest.mark.parametrize("error", NO_MEMORY, ids=["cuda", "cpu", "cpu-windows", "mps"])
def test_a_batch_that_does_not_fit_is_halved_and_so_are_those_after_it(error) -> None:
    asked: list[int] = []
    made = list(in_batches(range(10), 8, doubling(3, error, asked)))
    assert asked == [8, 4, 2, 2, 2, 2, 2]
    assert [i for batch, _ in made for i in batch] == list(range(10))
    assert [i for _, results in made for i in results] == list(range(0, 20, 2))


def test_one_item_that_does_not_fit_is_an_error_and_so_is_any_other() -> None:
    asked: list[int] = []
    with pytest.raises(torch.OutOfMemoryError):
        list(in_batches(range(4), 4, doubling(0, NO_MEMORY[0], asked)))
    assert asked == [4, 2, 1]
    other = RuntimeError("shapes cannot be multiplied")
    assert not out_of_memory(other)
    with pytest.raises(RuntimeError, match="shapes"):
        list(in_batches(range(4), 4, doubling(0, other, [])))


def test_what_goes_together_is_decided_for_each_batch() -> None:
    below = list(in_batches([1, 2, 5, 6, 7], 4, list, lambda rest: [i for i in rest if i // 4 == rest[0] // 4]))
    assert [list(batch) for batch, _ in below] == [[1, 2], [5, 6, 7]]
    assert list(in_batches([], 4, list)) == []
