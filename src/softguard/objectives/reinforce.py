"""REINFORCE: the guard's score of the student's own response as reward, less a moving average of earlier rewards.

L = -mean_i (R_i - b) sum_t log q(y_it), with y ~ q and R = p(s=1|x,y). Its gradient is an unbiased estimate of -grad E[R],
since b does not depend on y. b is the exponential moving average of the mean rewards of earlier steps, without the bias of a
start at 0; the first step, which has none before it, takes its own mean. The baseline is a pure function of the history,
which a resumed run has: no state of its own is lost with a kill.

References:
    Williams 1992, Machine Learning 8, eq. 11; as a baseline of Alfarra et al. 2026, arXiv 2606.09388, section 4.
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from softguard.objectives.protocol import OBJECTIVES, Need, ObjectiveInput, ObjectiveOutput, Sampling


class ReinforceConfig(BaseModel):
    """Responses and baseline."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["reinforce"] = "reinforce"
    max_new_tokens: int = Field(48, gt=0, description="length of a sampled response; the guard judges the same truncated text")
    baseline_decay: float = Field(0.9, ge=0, lt=1, description="of the moving average of rewards, for each step")


@OBJECTIVES.register("reinforce")
class Reinforce:
    """The loss of this module."""

    needs: frozenset[Need] = frozenset({"on_policy"})
    branch_floor = 0.0
    answer_tokens = 0

    def __init__(self, config: ReinforceConfig) -> None:
        self._config = config
        self.sampling = Sampling(config.max_new_tokens)

    def __call__(self, batch: ObjectiveInput) -> ObjectiveOutput:
        """Return the mean over rows; logs the baseline."""
        assert batch.samples is not None
        reward = batch.samples.reward
        baseline = moving_average(batch.samples.past_rewards, self._config.baseline_decay, reward.mean())
        log_prob = batch.answer.sum_by_row(batch.answer.log_probs(), len(reward))
        return ObjectiveOutput(-((reward - baseline) * log_prob).mean(), {"baseline": float(baseline)})


def moving_average(values: Float[Tensor, " steps"], decay: float, none: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return sum_i d^(n-1-i) v_i / sum_i d^(n-1-i), the newest last; `none` where there are no values."""
    if not len(values):
        return none
    weights = decay ** torch.arange(len(values) - 1, -1, -1, dtype=values.dtype, device=values.device)
    return (weights * values).sum() / weights.sum()
