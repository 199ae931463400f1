"""The decision-split loss: whether to refuse, apart from what to say (`objective-notes`, idea 2).

L = BCE(pi, rho) + lambda (1-pi) mean_t KL(p_t, q_t) + mu pi mean_{t>=2} -log q(y_r,t) + kappa L_rank,

with pi = 1 - alpha, rho = q(S|x), and S removed and the rest renormalised at t = 1. lambda = T_y, mu = T_r - 1 give the
sequence KL back. The ranking term L_rank = mean_{pi_i > pi_j} softplus(d_ij - s_i + s_j), d_ij = min(margin, logit pi_i -
logit pi_j), is blind to a common shift of s: "refuse all" cannot win it.
"""

from typing import Literal

import torch
import torch.nn.functional as F
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
        c, rows = self._config, len(batch.alpha)
        pi = 1 - batch.alpha
        s = refusal_log_odds(batch.first_logits, batch.refusal_token)
        decision = F.binary_cross_entropy_with_logits(s, pi, reduction="none")
        answer, refusal = batch.answer, batch.refusal
        kept = answer.mean_by_row(answer.divergence("forward_kl", first_without=batch.refusal_token), rows)
        later = refusal.position > 0
        nll = torch.where(later, -refusal.log_probs(), 0.0)
        said = refusal.sum_by_row(nll, rows) / refusal.sum_by_row(later.float(), rows).clamp(min=1)
        loss = decision + c.answer_weight * weighted(1 - pi, kept) + c.refusal_weight * weighted(pi, said)
        rank = ranking_loss(s, pi, c.margin)
        total = loss.mean() + c.ranking_weight * rank
        benign = pi < 0.5
        figures = {"decision": decision.mean(), "refusal": said[pi >= 0.5].mean(), "ranking": rank}
        figures["answer"] = kept[benign].mean()
        return ObjectiveOutput(total, {k: float(v.detach()) for k, v in figures.items() if not torch.isnan(v)})


def refusal_log_odds(logits: Tensor, token: int) -> Tensor:
    """Return s = log rho - log(1-rho) for rows of logits, B."""
    others = logits.index_fill(1, torch.tensor([token], device=logits.device), -torch.inf)
    return logits[:, token] - torch.logsumexp(others, -1)


def ranking_loss(s: Tensor, pi: Tensor, margin: float) -> Tensor:
    """Return mean softplus(d_ij - s_i + s_j) over pairs with pi_i - pi_j > 1/2; 0 where there is no such pair."""
    logit = torch.logit(pi.clamp(1e-6, 1 - 1e-6))
    distance = (logit[:, None] - logit[None]).clamp(max=margin)
    pairs = pi[:, None] - pi[None] > 0.5
    if not pairs.any():
        return s.sum() * 0.0
    return F.softplus(distance - s[:, None] + s[None])[pairs].mean()
