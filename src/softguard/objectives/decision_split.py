"""The decision-split loss: whether to refuse, apart from what to say (`docs/objectives.md`).

L = BCE(pi, rho) + lambda (1-pi) mean_t KL(p_t, q_t) + mu pi mean_{t>=2} -log q(y_r,t) + kappa L_rank,

with pi = 1 - alpha, rho = q(S|x), and S removed and the rest renormalised at t = 1. lambda = T_y, mu = T_r - 1 give the
sequence KL back. The ranking term L_rank = mean_{pi_i > pi_j} softplus(d_ij - s_i + s_j), d_ij = min(margin, logit pi_i -
logit pi_j), is blind to a common shift of s: "refuse all" cannot win it.

Under a policy S is a set B, the first tokens of what may be said instead of y, and y may begin with one of them as well: a
rewriting often does. The teacher's first token has t(v) = alpha p(v) + sum_o w_o 1[v = S_o], so that rho = q(B) aims at
t(B) = pi + alpha p(B) and not at pi; -sum_B t(v) log(q(v)/q(B)) says which of B, and the KL at t = 1 is weighed by 1 - p(B).
With lambda = T_y this is the sequence KL, whatever is shared. Where B is the run's own S alone and y begins otherwise (without
a policy, all rows), p(S) is taken as 0: it is tiny, and a policy that only refuses has the loss of no policy.

References:
    Ours; the sequence KL that it splits is KL-DiSP of Alfarra et al. 2026, arXiv 2606.09388. The ranking term is RankNet's with a
    margin (Burges et al. 2005, ICML, eq. 3).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
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
        shared = _shared(batch, begins)  # p of B
        target = (pi + batch.alpha * shared.sum(1)).clamp(max=1.0)
        refusing = torch.logsumexp(batch.first_logits.masked_fill(~begins, -torch.inf), -1)
        s = refusing - torch.logsumexp(batch.first_logits.masked_fill(begins, -torch.inf), -1)
        # Which outcome, given that it is not y: nothing where there is one.
        which = refusing[outcomes.row] - batch.first_logits[outcomes.row, outcomes.token]
        decision = F.binary_cross_entropy_with_logits(s, target, reduction="none")
        decision = decision + outcomes.sum_by_row(weighted(outcomes.weight, which), rows)
        if shared.shape[1]:
            within = torch.where(shared > 0, refusing[:, None] - batch.first_logits, 0.0)
            decision = decision + batch.alpha * (shared * within).sum(1)
        answer, refusal = batch.answer, batch.refusal
        along = answer.divergence("forward_kl", first_without=outcomes.deciding(rows))
        rest = (1 - shared.sum(1))[answer.row]
        kept = answer.mean_by_row(along * torch.where(answer.position == 0, rest, 1.0), rows)
        later, many = refusal.position > 0, len(outcomes.weight)
        nll = torch.where(later, -refusal.log_probs(), 0.0)
        said = refusal.sum_by_row(nll, many) / refusal.sum_by_row(later.float(), many).clamp(min=1)
        instead = outcomes.sum_by_row(weighted(outcomes.weight, said), rows)
        loss = decision + c.answer_weight * weighted(1 - pi, kept) + c.refusal_weight * instead
        rank = ranking_loss(s, target, c.margin)
        total = loss.mean() + c.ranking_weight * rank
        benign = pi < 0.5
        figures = {"decision": decision.mean(), "refusal": said[pi[outcomes.row] >= 0.5].mean(), "ranking": rank}
        figures["answer"] = kept[benign].mean()
        return ObjectiveOutput(total, {k: float(v.detach()) for k, v in figures.items() if not torch.isnan(v)})


def _shared(batch: ObjectiveInput, begins: Bool[Tensor, "rows vocab"]) -> Float[Tensor, "rows shared"]:
    """Return the base model's p(v) for v in B; 0 elsewhere and where the module takes it as 0; no columns without a policy."""
    if batch.policy is None:
        return batch.first_logits.new_zeros(len(begins), 0)
    answer, own = batch.answer, batch.refusal_token
    other = begins.sum(1) > begins[:, own]  # more than S
    other = other.index_fill(0, answer.row[(answer.position == 0) & (answer.targets == own)], True)
    return torch.where(begins & other[:, None], torch.softmax(batch.first_teacher_logits, -1), 0.0)


def ranking_loss(s: Float[Tensor, " rows"], pi: Float[Tensor, " rows"], margin: float) -> Float[Tensor, ""]:
    """Return mean softplus(d_ij - s_i + s_j) over pairs with pi_i - pi_j > 1/2; 0 where there is no such pair."""
    logit = torch.logit(pi.clamp(1e-6, 1 - 1e-6))
    distance = (logit[:, None] - logit[None]).clamp(max=margin)
    pairs = pi[:, None] - pi[None] > 0.5
    if not pairs.any():
        return s.sum() * 0.0
    return F.softplus(distance - s[:, None] + s[None])[pairs].mean()
