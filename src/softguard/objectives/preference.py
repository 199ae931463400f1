"""The preference baseline: DPO between the refusal and y, with the guard's alpha as the probability that y is preferred.

d = beta ((l_y - log p(y|x)) - (l_r - log p(y_r|x))), L = -alpha log sigma(d) - (1-alpha) log sigma(-d).

With alpha in {0, 1} it is DPO with the preferred response that the guard names; in between, DPO with soft labels, whose minimum
is at d = logit alpha instead of at infinity. The reference is the base model, whose log-probabilities are in the teacher's cache.
It is no distillation: it asks for the odds of y against y_r relative to the base model, not for either's probability.

References:
    Rafailov et al. 2023, arXiv 2305.18290, eq. 7; soft labels: Mitchell 2023,
    "A note on DPO with noisy preferences" (cDPO), eq. 3.
"""

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from softguard.objectives.protocol import OBJECTIVES, Need, ObjectiveInput, ObjectiveOutput


class DpoConfig(BaseModel):
    """How far from the base model the preference may pull."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["dpo"] = "dpo"
    inverse_temperature: float = Field(
        0.1,
        gt=0,
        description="DPO's beta: preference for each nat that the odds of y move from the base model's; smaller moves further",
    )


@OBJECTIVES.register("dpo")
class Dpo:
    """The loss of this module."""

    needs: frozenset[Need] = frozenset({"sequence", "preference"})
    branch_floor = -1.0  # both log-probabilities stand in every row's loss, whatever its alpha
    answer_tokens = 0

    def __init__(self, config: DpoConfig) -> None:
        self._config = config

    def __call__(self, batch: ObjectiveInput) -> ObjectiveOutput:
        """Return the mean over rows; logs the share of rows whose preference the student has the right way round."""
        assert batch.base_answer_log_prob is not None
        assert batch.base_refusal_log_prob is not None
        rows = len(batch.alpha)
        answer = batch.answer.sum_by_row(batch.answer.log_probs(), rows) - batch.base_answer_log_prob
        refusal = batch.refusal.sum_by_row(batch.refusal.log_probs(), rows) - batch.base_refusal_log_prob
        preference = self._config.inverse_temperature * (answer - refusal)
        right = (preference > 0) == (batch.alpha > 0.5)
        figures = {"preference_accuracy": float(right.float().mean()), "preference": float(preference.detach().abs().mean())}
        return ObjectiveOutput(dpo_loss(batch.alpha, preference).mean(), figures)


def dpo_loss(alpha: Float[Tensor, " rows"], preference: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """Return -alpha log sigma(d) - (1-alpha) log sigma(-d) of the preference d for y."""
    return F.binary_cross_entropy_with_logits(preference, alpha, reduction="none")
