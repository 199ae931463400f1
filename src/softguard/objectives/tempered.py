"""Tempered total variation: a live, bounded bridge between total variation (k = 1) and forward KL (k -> 0).

The dense form (`dense`) with sum_v p (1 - min(1, q/p)^k) / k in the place of the divergence: at S, where the teacher is nearly a
point mass on a harmful prompt, its gradient is -q^k (1-q), while the total variation's -q (1-q) is gone before anything is
learnt and the KL's -(1-q) has no bound in value. k from 0.3 on is what our analysis suggests to try.

References:
    Ours (`docs/objectives.md`); against a point mass it is Zhang and Sabuncu 2018, arXiv 1805.07836, eq. 6.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from softguard.objectives.dense import Decision, DenseObjective, Reduction
from softguard.objectives.protocol import OBJECTIVES


class TemperedConfig(BaseModel):
    """The exponent, and how a branch's tokens add up."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["tempered_total_variation"] = "tempered_total_variation"
    exponent: float = Field(0.5, gt=0, le=1, description="k: 1 is total_variation, towards 0 a clipped forward_kl")
    reduction: Reduction = Field("sum", description="over a branch's tokens")
    decision: Decision = Field("divergence", description="how the refusal's first token is weighed")


@OBJECTIVES.register("tempered_total_variation")
def tempered_total_variation(config: TemperedConfig) -> DenseObjective:
    """Return the dense objective with the tempered total variation."""
    return DenseObjective("tempered_total_variation", config.reduction, config.decision, config.exponent)
