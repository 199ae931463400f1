"""Dense forms: the whole next-token distribution of the teacher instead of one sampled token (`objective-notes`, ours).

The teacher's first token has the distribution alpha p_base + (1-alpha) onehot(S), one target counted once. After it the
branches part: along y the teacher is the base model with weight alpha, along y_r a point mass with weight 1-alpha.
Given S the rest of y_r is certain, so that branch takes -log q(y_r,t) for every kind, the forward KL against a point mass: total
variation, 1 - q, has no gradient where q is 0, and the reverse KL is infinite. (Eq. 4's clip min(0, l - log 1) is l itself.)
Along each branch the tokens after the first are summed or averaged; the first carries the decision and counts once either way,
so averaging gives the decision more weight against what follows it.
"""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from softguard.objectives import divergences
from softguard.objectives.protocol import OBJECTIVES, Need, ObjectiveInput, ObjectiveOutput, weighted

Kind = Literal["total_variation", "forward_kl", "reverse_kl", "jensen_shannon"]


class DenseConfig(BaseModel):
    """Which divergence, and how a branch's tokens add up."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Kind = "forward_kl"
    reduction: Literal["sum", "mean"] = Field(
        "sum", description="over a branch's tokens; for forward_kl, sum is the divergence of whole responses, by the one draft"
    )


def teacher_first_logits(base_logits: Tensor, alpha: Tensor, refusal_token: int) -> Tensor:
    """Return log(alpha p_base + (1-alpha) onehot(S)), B x V: the teacher's first-token distribution as logits."""
    log_p = torch.log_softmax(base_logits, -1) + torch.log(alpha)[:, None]
    column = torch.logaddexp(log_p[:, refusal_token], torch.log1p(-alpha))
    return log_p.index_copy(1, torch.tensor([refusal_token], device=log_p.device), column[:, None])


class DenseObjective:
    """First-token divergence plus the two branches after it."""

    needs: frozenset[Need] = frozenset({"sequence", "dense"})
    branch_floor = 0.0
    answer_tokens = 0

    def __init__(self, config: DenseConfig) -> None:
        self._kind = config.kind
        self._reduction = config.reduction

    def __call__(self, batch: ObjectiveInput) -> ObjectiveOutput:
        """Return the mean over rows, with the three parts in the log."""
        rows, alpha = len(batch.alpha), batch.alpha
        target = teacher_first_logits(batch.first_teacher_logits, alpha, batch.refusal_token)
        # A probability of exactly 0 is a logit of -inf: a finite floor keeps every divergence and gradient finite.
        first = getattr(divergences, self._kind)(batch.first_logits, target.clamp(min=-80.0))
        answer, refusal = batch.answer, batch.refusal
        later = answer.position > 0
        dense = torch.where(later, answer.divergence(self._kind), 0.0)
        point = torch.where(refusal.position > 0, -refusal.log_probs(), 0.0)
        parts = {"answer": answer.sum_by_row(dense, rows), "refusal": refusal.sum_by_row(point, rows)}
        if self._reduction == "mean":
            for name, branch in (("answer", answer), ("refusal", refusal)):
                count = branch.sum_by_row((branch.position > 0).float(), rows).clamp(min=1)
                parts[name] = parts[name] / count
        loss = first + weighted(alpha, parts["answer"]) + weighted(1 - alpha, parts["refusal"])
        return ObjectiveOutput(loss.mean(), {k: float(v.detach().mean()) for k, v in {"first": first, **parts}.items()})


def dense(config: DenseConfig) -> DenseObjective:
    """Return the dense objective of the config."""
    return DenseObjective(config)


for _kind in ("total_variation", "forward_kl", "reverse_kl", "jensen_shannon"):
    OBJECTIVES.register(_kind)(dense)
