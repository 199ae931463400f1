"""What an objective is given and what it returns.

Shapes: B rows of the batch, N tokens of a branch, V vocabulary, D width; they are checked while testing (`tests/conftest.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from softguard.core.head import Head
from softguard.objectives.fused_head import Figure, token_figures
from softguard.registry import Registry

Need = Literal["sequence", "dense", "reference", "preference", "text", "on_policy"]
"""`sequence`: log-probabilities along both branches; `dense`: the base model's distributions along y; `reference`: log p(y|x);
`preference`: log p(y_r|x) as well, and both branches in every row; `text`: the prompt's own tokens; `on_policy`: responses of the
student with the guard's reward, instead of the branches of the teacher."""


@dataclass(frozen=True)
class Branch:
    """One way the teacher may go (the answer y or the refusal y_r), flat over the tokens of all rows of a batch.

    Attributes:
        head: makes logits of states.
        states: the student's, which predict the tokens; wider than the head where the student has a token more (`Head`).
        targets: the tokens of the branch.
        row: which prompt of the batch.
        position: place in the response from 0.
        teacher_states: the base model's at the same places, where the objective needs `dense`.
    """

    head: Head
    states: Float[Tensor, "tokens width"]
    targets: Int[Tensor, " tokens"]
    row: Int[Tensor, " tokens"]
    position: Int[Tensor, " tokens"]
    teacher_states: Float[Tensor, "tokens teacher_width"] | None = None
    _seen: dict[str, Tensor] = field(init=False, default_factory=dict, compare=False, repr=False)

    def log_probs(self) -> Float[Tensor, " tokens"]:
        """Return the student's log-probability of each token."""
        return self._figures("log_prob", None, None)

    def base_log_probs(self) -> Float[Tensor, " tokens"]:
        """Return the base model's log-probability of each token, without a graph; the objective needs `dense`.

        A token that the base model lacks counts as its least likely one: a penalty on saying it stays finite.
        """
        assert self.teacher_states is not None
        with torch.no_grad():
            lacking = self.targets >= len(self.head.weight)
            found = token_figures("log_prob", self.head, self.teacher_states, self.targets.masked_fill(lacking, 0)).values
            if lacking.any():
                found[lacking] = torch.log_softmax(self.head.logits(self.teacher_states[lacking]), 1).amin(1).to(found.dtype)
            return found

    def divergence(
        self, kind: Figure, *, first_without: "Outcomes | None" = None, exponent: float = 1.0
    ) -> Float[Tensor, " tokens"]:
        """Return a divergence from the base model's next-token distribution at each token (`divergences`), in nats.

        Args:
            kind: which.
            first_without: outcomes whose first tokens both distributions leave out at their row's first position.
            exponent: k of the tempered total variation.
        """
        omit = None
        if first_without is not None:
            index = self.first_positions(int(first_without.row.max()) + 1 if len(first_without.row) else 0)[first_without.row]
            omit = (index[index >= 0], first_without.token[index >= 0])
        return self._figures(kind, self.teacher_states, omit, exponent)

    def first_positions(self, rows: int) -> Int[Tensor, " rows"]:
        """Return for each of the first `rows` rows the index of its first token here, -1 where it has none."""
        starts = (self.position == 0) & (self.row < rows)
        where = torch.full((rows,), -1, device=self.row.device)
        where[self.row[starts]] = starts.nonzero().squeeze(1)
        return where

    def observed_log_probs(self) -> Float[Tensor, " tokens"]:
        """Return `log_probs` without a graph, for free where a figure was taken before."""
        if "log_probs" not in self._seen:
            with torch.no_grad():
                self.log_probs()
        return self._seen["log_probs"]

    def _figures(
        self, kind: Figure, teacher_states: Tensor | None, omit: tuple[Tensor, Tensor] | None, exponent: float = 1.0
    ) -> Tensor:
        found = token_figures(kind, self.head, self.states, self.targets, teacher_states, omit, exponent)
        self._seen["log_probs"] = found.log_probs
        return found.values

    def sum_by_row(self, values: Float[Tensor, " tokens"], rows: int) -> Float[Tensor, " rows"]:
        """Return the sum over each row's tokens."""
        return values.new_zeros(rows).index_add(0, self.row, values)

    def mean_by_row(self, values: Float[Tensor, " tokens"], rows: int) -> Float[Tensor, " rows"]:
        """Return the mean over each row's tokens; 0 for a row without any."""
        return self.sum_by_row(values, rows) / self.sum_by_row(torch.ones_like(values), rows).clamp(min=1)


@dataclass(frozen=True)
class Outcomes:
    """What the teacher may say instead of y, flat over the rows of a batch: the refusal, or what a policy names.

    Attributes:
        row: which prompt of the batch.
        weight: its probability; those of a row add up to 1 - alpha.
        token: its first token.
    """

    row: Int[Tensor, " outcomes"]
    weight: Float[Tensor, " outcomes"]
    token: Int[Tensor, " outcomes"]

    @classmethod
    def refusals(cls, alpha: Float[Tensor, " rows"], token: int) -> "Outcomes":
        """Return the one refusal for every row."""
        row = torch.arange(len(alpha), device=alpha.device)
        return cls(row, 1 - alpha, torch.full_like(row, token))

    def sum_by_row(self, values: Float[Tensor, " outcomes"], rows: int) -> Float[Tensor, " rows"]:
        """Return the sum over each row's outcomes."""
        return values.new_zeros(rows).index_add(0, self.row, values)

    def first_tokens(self, rows: int, vocabulary: int) -> Float[Tensor, "rows vocab"]:
        """Return the weight of each first token in each row."""
        mass = self.weight.new_zeros(rows, vocabulary)
        return mass.index_put((self.row, self.token), self.weight, accumulate=True)

    def deciding(self, rows: int) -> "Outcomes":
        """Return the outcomes of some weight, and all of a row where none has any: those that the teacher may turn to."""
        counts = (self.weight > 0) | (self.sum_by_row(self.weight, rows) == 0)[self.row]
        return Outcomes(self.row[counts], self.weight[counts], self.token[counts])

    def begins(self, rows: int, vocabulary: int) -> Bool[Tensor, "rows vocab"]:
        """Return whether one of the row's `deciding` outcomes begins with the token."""
        found = torch.zeros(rows, vocabulary, dtype=torch.bool, device=self.row.device)
        decide = self.deciding(rows)
        return found.index_put((decide.row, decide.token), torch.ones_like(decide.row, dtype=torch.bool))


@dataclass(frozen=True)
class Samples:
    """What `on_policy` objectives read beside the answer branch, which then holds the student's own responses.

    Attributes:
        reward: the guard's p_safe of each response.
        past_rewards: the mean reward of every earlier step, oldest first.
        values: the value head at each token's state, with a graph; zeros where the objective has no value head.
        old_values: the same before the first update on these responses.
        old_log_probs: the student's log-probability of each token then; None in an objective that takes one update.
    """

    reward: Float[Tensor, " rows"]
    past_rewards: Float[Tensor, " steps"]
    values: Float[Tensor, " tokens"]
    old_values: Float[Tensor, " tokens"]
    old_log_probs: Float[Tensor, " tokens"] | None = None


@dataclass(frozen=True)
class ObjectiveInput:
    """One batch.

    Attributes:
        alpha: the guard's p_safe of the teacher's draft.
        answer: the branch y; rows of alpha exactly 0 may be absent from it.
        refusal: the branches y_r, its `row` numbering the outcomes; outcomes of weight exactly 0 may be absent from it.
        first_logits: the student's logits at the first answer position.
        first_teacher_logits: the base model's there; of no columns where it is not needed.
        refusal_token: S, the refusal's first token.
        base_answer_log_prob: log p(y|x), where the objective needs `reference` or `preference`.
        base_refusal_log_prob: log p(y_r|x), where it needs `preference`.
        text: the tokens of the rendered prompts, where it needs `text`.
        samples: where it needs `on_policy`.
        policy: the outcomes beside y where a policy gives them; None for the one refusal in each row.
    """

    alpha: Float[Tensor, " rows"]
    answer: Branch
    refusal: Branch
    first_logits: Float[Tensor, "rows student_vocab"]
    first_teacher_logits: Float[Tensor, "rows teacher_vocab"]
    refusal_token: int
    base_answer_log_prob: Float[Tensor, " rows"] | None = None
    base_refusal_log_prob: Float[Tensor, " rows"] | None = None
    text: Branch | None = None
    samples: Samples | None = None
    policy: Outcomes | None = None

    @property
    def outcomes(self) -> Outcomes:
        """What the teacher may say instead of y."""
        return self.policy if self.policy is not None else Outcomes.refusals(self.alpha, self.refusal_token)


@dataclass(frozen=True)
class ObjectiveOutput:
    """A scalar loss with its graph, and detached figures for the log."""

    loss: Float[Tensor, ""]
    metrics: dict[str, float] = field(default_factory=dict)


class Objective(Protocol):
    """A pure function of what it declares to need.

    Attributes:
        needs: what it reads of its input.
        branch_floor: a branch of a weight at or below this is not run; below 0 both are run in every row.
        answer_tokens: it sees no more than so many tokens of y; 0 is all.
    """

    needs: frozenset[Need]
    branch_floor: float
    answer_tokens: int

    def __call__(self, batch: ObjectiveInput) -> ObjectiveOutput:
        """Return the loss of one batch, mean over its rows."""
        ...


@dataclass(frozen=True)
class Sampling:
    """How an objective that needs `on_policy` is served.

    Attributes:
        max_new_tokens: of a response.
        temperature: 1 is the student's own distribution, whose gradient the policy gradient is.
        updates: optimiser steps on the same responses.
        value_learning_rate: peak rate of the value head, a linear map of the final states; None for no value head.
    """

    max_new_tokens: int
    temperature: float = 1.0
    updates: int = 1
    value_learning_rate: float | None = None


class OnPolicyObjective(Objective, Protocol):
    """An objective that needs `on_policy`."""

    sampling: Sampling


OBJECTIVES: Registry[Callable[..., Any]] = Registry("objective", "softguard.objectives")


def weighted(weight: Float[Tensor, " rows"], values: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """Return weight * values with 0 * anything = 0: a branch of weight 0 is masked, since 0 * inf is NaN."""
    return torch.where(weight > 0, weight * torch.where(weight > 0, values, 0.0), 0.0)
