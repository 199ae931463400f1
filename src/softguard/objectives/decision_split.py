"""The decision-split loss: whether to refuse, apart from what to say (`docs/objectives.md`).

L = BCE(pi, rho) + lambda (1-pi) mean_t KL(p_t, q_t) + mu pi mean_{t>=2} -log q(y_r,t) + kappa L_rank,

with pi = 1 - alpha, rho = q(S|x), and S removed and the rest renormalised at t = 1. lambda = T_y, mu = T_r - 1 give the
sequence KL back. The ranking term L_rank = mean_{pi_i > pi_j} softplus(d_ij - s_i + s_j), d_ij = min(margin, logit pi_i -
logit pi_j), is blind to a common shift of s: "refuse all" cannot win it.

References:
    Ours; the sequence KL that it splits is KL-DiSP of Alfarra et al. 2026, arXiv 2606.09388. The ranking term is RankNet's with a
    margin (Burges et al. 2005, ICML, eq. 3).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from softguard.objectives.protocol import OBJECTIVES, Need, ObjectiveInput, ObjectiveOutput, weighted


class DecisionSplitConfig(BaseModel):
    """Weights of the parts."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["decision_split"] = "decision_split"
    answer_weight: float = Field(1.0, ge=0, description="lambda, on the mean KL along y in nats per token")
    refusal_weight: float = Field(0.2, ge=0, description="mu, on the mean NLL of the refusal after its first token")
    ranking_weight: float = Field(0.0, ge=0, description="kappa, on the ranking of s within a batch")
    margin: float = Field(4.0, gt=0, description="largest distance in nats that the ranking term asks for")
    branch_floor: float = Field(
        0.02, ge=0, lt=0.5, description="a branch of less weight than this is not run at all; the decision always is"
    )
    answer_tokens: int = Field(
        0, ge=0, description="first tokens of y along which the KL is taken, 0 for all: fewer train faster"
    )


@OBJECTIVES.register("decision_split")
class DecisionSplit:
    """The loss of this module."""

    needs: frozenset[Need] = frozenset({"sequence", "dense"})

    def __init__(self, config: DecisionSplitConfig) -> None:
        self._config = config
        self.branch_floor = config.branch_floor
        self.answer_tokens = config.answer_tokens

    def __call__(self, batch: ObjectiveInput) -> ObjectiveOutput:
        """Return the mean over rows, with the parts in the log."""
        c, rows, outcomes = self._config, len(batch.alpha), batch.outcomes
        pi = 1 - batch.alpha
        begins = outcomes.begins(rows, batch.first_logits.shape[1])
        refusing = torch.logsumexp(batch.first_logits.masked_fill(~begins, -torch.inf), -1)
        s = refusing - torch.logsumexp(batch.first_logits.masked_fill(begins, -torch.inf), -1)
        # Which outcome, given that it is not y: nothing where there is one.
        which = refusing[outcomes.row] - batch.first_logits[outcomes.row, outcomes.token]
        decision = F.binary_cross_entropy_with_logits(s, pi, reduction="none")
        decision = decision + outcomes.sum_by_row(weighted(outcomes.weight, which), rows)
        answer, refusal = batch.answer, batch.refusal
        kept = answer.mean_by_row(answer.divergence("forward_kl", first_without=outcomes), rows)
        later, many = refusal.position > 0, len(outcomes.weight)
        nll = torch.where(later, -refusal.log_probs(), 0.0)
        said = refusal.sum_by_row(nll, many) / refusal.sum_by_row(later.float(), many).clamp(min=1)
        instead = outcomes.sum_by_row(weighted(outcomes.weight, said), rows)
        loss = decision + c.answer_weight * weighted(1 - pi, kept) + c.refusal_weight * instead
        rank = ranking_loss(s, pi, c.margin)
        total = loss.mean() + c.ranking_weight * rank
        benign = pi < 0.5
        figures = {"decision": decision.mean(), "refusal": said[pi[outcomes.row] >= 0.5].mean(), "ranking": rank}
        figures["answer"] = kept[benign].mean()
        return ObjectiveOutput(total, {k: float(v.detach()) for k, v in figures.items() if not torch.isnan(v)})


def ranking_loss(s: Float[Tensor, " rows"], pi: Float[Tensor, " rows"], margin: float) -> Float[Tensor, ""]:
    """Return mean softplus(d_ij - s_i + s_j) over pairs with pi_i - pi_j > 1/2; 0 where there is no such pair."""
    logit = torch.logit(pi.clamp(1e-6, 1 - 1e-6))
    distance = (logit[:, None] - logit[None]).clamp(max=margin)
    pairs = pi[:, None] - pi[None] > 0.5
    if not pairs.any():
        return s.sum() * 0.0
    return F.softplus(distance - s[:, None] + s[None])[pairs].mean()
