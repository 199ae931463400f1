"""Dense forms: the whole next-token distribution of the teacher instead of one sampled token.

The teacher's first token has the distribution alpha p_base + (1-alpha) onehot(S), one target counted once. After it the
branches part: along y the teacher is the base model with weight alpha, along y_r a point mass with weight 1-alpha.
Given S the rest of y_r is certain, so that branch takes -log q(y_r,t) for every kind, the forward KL against a point mass: total
variation, 1 - q, has no gradient where q is 0, and the reverse KL is infinite. (Eq. 4's clip min(0, l - log 1) is l itself.)
Along each branch the tokens after the first are summed or averaged; the first carries the decision and counts once either way,
so averaging gives the decision more weight against what follows it.

The decision itself vanishes from the total variation as well: its gradient with respect to the logit of S is at most rho (1-rho),
and rho starts near 0. `decision = "clipped_log"` takes it by the clipped logarithms of eq. 4, with t the teacher's probability
of S: -t min(0, log rho - log t) - (1-t) min(0, log(1-rho) - log(1-t)) + (1-t) D(p, q without S); 0 at equality as well.

References:
    Ours, of the guarded system of Alfarra et al. 2026, arXiv 2606.09388, eq. 1-2 and 4; derived in `docs/objectives.md`.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from softguard.objectives import divergences
from softguard.objectives.fused_head import Figure
from softguard.objectives.protocol import OBJECTIVES, Need, ObjectiveInput, ObjectiveOutput, Outcomes, weighted

Kind = Literal["total_variation", "forward_kl", "reverse_kl", "jensen_shannon"]
Reduction = Literal["sum", "mean"]
Decision = Literal["divergence", "clipped_log"]
FLOOR = -80.0
"""Log-probability that stands for a probability of exactly 0: every divergence and gradient stays finite."""
OMITTED = -1e4
"""Logit of a token that is left out: a probability of 0, and no infinity whose product with 0 is NaN."""


class DenseConfig(BaseModel):
    """Which divergence, and how a branch's tokens add up."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Kind = "forward_kl"
    reduction: Reduction = Field(
        "sum", description="over a branch's tokens; for forward_kl, sum is the divergence of whole responses, by the one draft"
    )
    decision: Literal["auto", "divergence", "clipped_log"] = Field(
        "auto",
        description="how the refusal's first token is weighed; auto is clipped_log for total_variation, whose gradient vanishes",
    )

    @property
    def decided_by(self) -> Decision:
        """What `auto` means for the kind."""
        if self.decision != "auto":
            return self.decision
        return "clipped_log" if self.kind == "total_variation" else "divergence"


def teacher_first_logits(
    base_logits: Float[Tensor, "rows vocab"], alpha: Float[Tensor, " rows"], outcomes: Outcomes
) -> Float[Tensor, "rows vocab"]:
    """Return log(alpha p_base + sum_o w_o onehot(S_o)): the teacher's first-token distribution as logits."""
    kept = torch.log_softmax(base_logits, -1) + torch.log(alpha)[:, None]
    return torch.logaddexp(kept, torch.log(outcomes.first_tokens(*base_logits.shape)))


def clipped_decision(
    student_logits: Float[Tensor, "rows vocab"],
    teacher_logits: Float[Tensor, "rows vocab"],
    decides: Bool[Tensor, "rows vocab"],
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Return the clipped logarithms of the tokens that decide and of all others together, and the others' probability."""
    log_q, log_p = torch.log_softmax(student_logits, -1), torch.log_softmax(teacher_logits, -1)
    said = -weighted(torch.where(decides, log_p.exp(), 0.0).flatten(), (log_q - log_p).clamp(max=0.0).flatten())
    not_q, not_p = (torch.logsumexp(x.masked_fill(decides, -torch.inf), -1) for x in (log_q, log_p))
    other = not_p.exp()
    return said.view_as(log_q).sum(-1) - weighted(other, (not_q - not_p).clamp(max=0.0)), other


class DenseObjective:
    """First-token divergence plus the two branches after it."""

    needs: frozenset[Need] = frozenset({"sequence", "dense"})
    branch_floor = 0.0
    answer_tokens = 0

    def __init__(self, figure: Figure, reduction: Reduction, decision: Decision, exponent: float = 1.0) -> None:
        self._figure, self._reduction, self._decision, self._exponent = figure, reduction, decision, exponent

    def __call__(self, batch: ObjectiveInput) -> ObjectiveOutput:
        """Return the mean over rows, with the three parts in the log."""
        rows, alpha, outcomes = len(batch.alpha), batch.alpha, batch.outcomes
        first = self._first(batch)
        answer, refusal, many = batch.answer, batch.refusal, len(outcomes.weight)
        later = answer.position > 0
        dense = torch.where(later, answer.divergence(self._figure, exponent=self._exponent), 0.0)
        point = torch.where(refusal.position > 0, -refusal.log_probs(), 0.0)
        kept, said = answer.sum_by_row(dense, rows), refusal.sum_by_row(point, many)
        if self._reduction == "mean":
            kept = kept / answer.sum_by_row(later.float(), rows).clamp(min=1)
            said = said / refusal.sum_by_row((refusal.position > 0).float(), many).clamp(min=1)
        loss = first + weighted(alpha, kept) + outcomes.sum_by_row(weighted(outcomes.weight, said), rows)
        figures = {"first": first, "answer": kept, "refusal": said}
        return ObjectiveOutput(loss.mean(), {k: float(v.detach().mean()) for k, v in figures.items()})

    def _first(self, batch: ObjectiveInput) -> Tensor:
        student, base = batch.first_logits, batch.first_teacher_logits
        target = teacher_first_logits(base, batch.alpha, batch.outcomes).clamp(min=FLOOR)
        if self._decision == "divergence":
            return self._divergence(student, target)
        decides = batch.outcomes.begins(*student.shape)
        decided, other = clipped_decision(student, target, decides)
        return decided + weighted(other, self._divergence(*(x.masked_fill(decides, OMITTED) for x in (student, base))))

    def _divergence(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        if self._figure == "tempered_total_variation":
            return divergences.tempered_total_variation(student_logits, teacher_logits, self._exponent)
        found: Tensor = getattr(divergences, self._figure)(student_logits, teacher_logits)
        return found


def dense(config: DenseConfig) -> DenseObjective:
    """Return the dense objective of the config."""
    return DenseObjective(config.kind, config.reduction, config.decided_by)


for _kind in get_args(Kind):
    OBJECTIVES.register(_kind)(dense)
