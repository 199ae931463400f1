"""Gradients over the processes of a job. An adapter is small: no wrapper of the model, no bucket, one sum after the last pass."""

from collections.abc import Sequence

import torch

from softguard.core.processes import processes


def sum_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Put the sum over all processes in the place of each gradient; where no process has one there is none."""
    if processes().count == 1:
        return
    from accelerate.utils import reduce

    there = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    given = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    there, *sums = reduce([there, *given], reduction="sum")
    for parameter, total, count in zip(parameters, sums, there.tolist(), strict=True):
        parameter.grad = total if count else None
