"""What an objective is given and what it returns."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from softguard.core.head import Head
from softguard.objectives.fused_head import Figure, token_figures
from softguard.registry import Registry

Need = Literal["sequence", "dense"]


@dataclass(frozen=True)
class Branch:
    """One way the teacher may go (the answer y or the refusal y_r), flat over the tokens of all rows of a batch.

    Attributes:
        head: makes logits of states.
        states: N x D, the student's, which predict the tokens.
        targets: N, the tokens of the branch.
        row: N, which prompt of the batch.
        position: N, place in the response from 0.
        teacher_states: N x D, the base model's at the same places, where the objective needs `dense`.
    """

    head: Head
    states: Tensor
    targets: Tensor
    row: Tensor
    position: Tensor
    teacher_states: Tensor | None = None
    _seen: dict[str, Tensor] = field(init=False, default_factory=dict, compare=False, repr=False)

    def log_probs(self) -> Tensor:
        """Return the student's log-probability of each token, N."""
        return self._figures("log_prob", None, None)

    def divergence(self, kind: Figure, *, first_without: int | None = None) -> Tensor:
        """Return a divergence from the base model's next-token distribution at each token, N (`divergences`), in nats.

        `first_without`: a token that both distributions leave out at the first position.
        """
        omit = None if first_without is None else (self.position == 0, first_without)
        return self._figures(kind, self.teacher_states, omit)

    def observed_log_probs(self) -> Tensor:
        """Return `log_probs` without a graph, for free where a figure was taken before."""
        if "log_probs" not in self._seen:
            with torch.no_grad():
                self.log_probs()
        return self._seen["log_probs"]

    def _figures(self, kind: Figure, teacher_states: Tensor | None, omit: tuple[Tensor, int] | None) -> Tensor:
        found = token_figures(kind, self.head, self.states, self.targets, teacher_states, omit)
        self._seen["log_probs"] = found.log_probs
        return found.values

    def sum_by_row(self, values: Tensor, rows: int) -> Tensor:
        """Return the sum over each row's tokens, B."""
        return values.new_zeros(rows).index_add(0, self.row, values)

    def mean_by_row(self, values: Tensor, rows: int) -> Tensor:
        """Return the mean over each row's tokens, B; 0 for a row without any."""
        return self.sum_by_row(values, rows) / self.sum_by_row(torch.ones_like(values), rows).clamp(min=1)


@dataclass(frozen=True)
class ObjectiveInput:
    """One batch.

    Attributes:
        alpha: B, the guard's p_safe of the teacher's draft.
        answer: the branch y; rows of alpha exactly 0 may be absent from it.
        refusal: the branch y_r; rows of alpha exactly 1 may be absent from it.
        first_logits: B x V, the student's logits at the first answer position.
        first_teacher_logits: B x V, the base model's there.
        refusal_token: S, the refusal's first token.
    """

    alpha: Tensor
    answer: Branch
    refusal: Branch
    first_logits: Tensor
    first_teacher_logits: Tensor
    refusal_token: int


@dataclass(frozen=True)
class ObjectiveOutput:
    """A scalar loss with its graph, and detached figures for the log."""

    loss: Tensor
    metrics: dict[str, float] = field(default_factory=dict)


class Objective(Protocol):
    """A pure function of what it declares to need.

    Attributes:
        needs: what it reads of its input.
        branch_floor: a branch of a weight at or below this is not run.
        answer_tokens: it sees no more than so many tokens of y; 0 is all.
    """

    needs: frozenset[Need]
    branch_floor: float
    answer_tokens: int

    def __call__(self, batch: ObjectiveInput) -> ObjectiveOutput:
        """Return the loss of one batch, mean over its rows."""
        ...


OBJECTIVES: Registry[Callable[..., Any]] = Registry("objective", "softguard.objectives")


def weighted(weight: Tensor, values: Tensor) -> Tensor:
    """Return weight * values with 0 * anything = 0: a branch of weight 0 is masked, since 0 * inf is NaN."""
    return torch.where(weight > 0, weight * torch.where(weight > 0, values, 0.0), 0.0)
