"""The paper's two objectives, on whole sequences: `tv_disp` (eq. 4) and `kl_disp` (the same without the clips); and eq. 4'.

L = -alpha min(0, l_y - log alpha) - (1-alpha) min(0, l_r - log(1-alpha)), with l_y, l_r sums of token log-probabilities. One
implementation, the clip a switch. Exact at alpha 0 and 1: the absent branch is masked (0 log 0 = 0), no epsilon.

`tv_disp_ratio`, ours, is eq. 4 with l_y - log p(y|x) for l_y. The clip of y then bites: eq. 4 asks a whole answer for a
probability of alpha, which no answer of many tokens has, while this asks for alpha times what the base model gives it, which
is what the teacher does. It bounds the total variation as eq. 3 does, and log p(y|x) is in the teacher's cache.

References:
    Alfarra et al. 2026, arXiv 2606.09388, eq. 3 and 4, algorithm 1; eq. 4' is in `docs/objectives.md`.
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from softguard.objectives.protocol import OBJECTIVES, Need, ObjectiveInput, ObjectiveOutput, weighted


class SequenceConfig(BaseModel):
    """No settings of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["tv_disp", "kl_disp", "tv_disp_ratio"] = "tv_disp"


def branch_loss(
    weight: Float[Tensor, " branches"], log_prob: Float[Tensor, " branches"], clip: bool
) -> tuple[Float[Tensor, " branches"], Float[Tensor, " branches"]]:
    """Return -w min(0, l - log w) of each branch, and whether it is clipped; 0 and no where its weight is 0.

    Args:
        weight: in [0, 1]: alpha of an answer, 1 - alpha of a refusal.
        log_prob: of the whole branch; any value where its weight is 0.
        clip: min(0, .) as in eq. 4; without it the sum of the branches is KL(p(r|x), q(r|x)), its entropy term kept.
    """
    gap = log_prob - torch.log(torch.where(weight > 0, weight, 1.0))
    clipped = torch.where(weight > 0, (gap > 0).float(), 0.0)
    return -weighted(weight, gap.clamp(max=0.0) if clip else gap), clipped


class SequenceObjective:
    """Eq. 4, clipped or not, with y's probability taken as it is or over the base model's."""

    needs: frozenset[Need] = frozenset({"sequence"})
    branch_floor = 0.0
    answer_tokens = 0

    def __init__(self, clip: bool, ratio: bool = False) -> None:
        self._clip, self._ratio = clip, ratio
        if ratio:
            self.needs = frozenset({"sequence", "reference"})

    def __call__(self, batch: ObjectiveInput) -> ObjectiveOutput:
        """Return the mean over rows; logs the share of clipped branches, of those that have a weight."""
        rows, outcomes = len(batch.alpha), batch.outcomes
        l_y = batch.answer.sum_by_row(batch.answer.log_probs(), rows)
        l_r = batch.refusal.sum_by_row(batch.refusal.log_probs(), len(outcomes.weight))
        if self._ratio:
            assert batch.base_answer_log_prob is not None
            l_y = l_y - batch.base_answer_log_prob
        kept, kept_clipped = branch_loss(batch.alpha, l_y, self._clip)
        instead, clipped = branch_loss(outcomes.weight, l_r, self._clip)
        present = (batch.alpha > 0).sum() + (outcomes.weight > 0).sum()
        share = (kept_clipped.sum() + clipped.sum()) / present
        loss = (kept + outcomes.sum_by_row(instead, rows)).mean()
        return ObjectiveOutput(loss, {"clip_fraction": float(share)})


@OBJECTIVES.register("tv_disp")
def tv_disp(config: SequenceConfig) -> SequenceObjective:
    """Return TV-DiSP: eq. 4 with its clips."""
    return SequenceObjective(clip=True)


@OBJECTIVES.register("kl_disp")
def kl_disp(config: SequenceConfig) -> SequenceObjective:
    """Return KL-DiSP: the same samples without the clips."""
    return SequenceObjective(clip=False)


@OBJECTIVES.register("tv_disp_ratio")
def tv_disp_ratio(config: SequenceConfig) -> SequenceObjective:
    """Return eq. 4': eq. 4 with y's probability over the base model's."""
    return SequenceObjective(clip=True, ratio=True)
