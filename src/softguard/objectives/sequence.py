"""The paper's two objectives, on whole sequences: `tv_disp` (eq. 4) and `kl_disp` (the same without the clips).

L = -alpha min(0, l_y - log alpha) - (1-alpha) min(0, l_r - log(1-alpha)), with l_y, l_r sums of token log-probabilities.
One implementation, the clip a switch. Exact at alpha 0 and 1: the absent branch is masked (0 log 0 = 0), no epsilon.
"""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from softguard.objectives.protocol import OBJECTIVES, Need, ObjectiveInput, ObjectiveOutput, weighted


class SequenceConfig(BaseModel):
    """No settings of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["tv_disp", "kl_disp"] = "tv_disp"


def sequence_loss(alpha: Tensor, answer_log_prob: Tensor, refusal_log_prob: Tensor, clip: bool) -> tuple[Tensor, Tensor]:
    """Return (loss, clipped share) for each row, B each.

    Args:
        alpha: B, in [0, 1].
        answer_log_prob: B, l_y; any value where alpha is 0.
        refusal_log_prob: B, l_r; any value where alpha is 1.
        clip: min(0, .) as in eq. 4; False is KL(p(r|x), q(r|x)) up to nothing, its entropy term kept.
    """
    total = torch.zeros_like(alpha)
    clipped = torch.zeros_like(alpha)
    for weight, value in ((alpha, answer_log_prob), (1 - alpha, refusal_log_prob)):
        gap = value - torch.log(torch.where(weight > 0, weight, 1.0))
        clipped = clipped + torch.where(weight > 0, (gap > 0).float(), 0.0)
        total = total - weighted(weight, gap.clamp(max=0.0) if clip else gap)
    return total, clipped / ((alpha > 0).float() + (alpha < 1).float())


class SequenceObjective:
    """Eq. 4, clipped or not."""

    needs: frozenset[Need] = frozenset({"sequence"})
    branch_floor = 0.0
    answer_tokens = 0

    def __init__(self, clip: bool) -> None:
        self._clip = clip

    def __call__(self, batch: ObjectiveInput) -> ObjectiveOutput:
        """Return the mean over rows; logs the share of clipped branches."""
        rows = len(batch.alpha)
        l_y = batch.answer.sum_by_row(batch.answer.log_probs(), rows)
        l_r = batch.refusal.sum_by_row(batch.refusal.log_probs(), rows)
        loss, clipped = sequence_loss(batch.alpha, l_y, l_r, self._clip)
        return ObjectiveOutput(loss.mean(), {"clip_fraction": float(clipped.mean())})


@OBJECTIVES.register("tv_disp")
def tv_disp(config: SequenceConfig) -> SequenceObjective:
    """Return TV-DiSP: eq. 4 with its clips."""
    return SequenceObjective(clip=True)


@OBJECTIVES.register("kl_disp")
def kl_disp(config: SequenceConfig) -> SequenceObjective:
    """Return KL-DiSP: the same samples without the clips."""
    return SequenceObjective(clip=False)
