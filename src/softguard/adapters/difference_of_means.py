"""The contrastive steering vector: a difference of means, fitted and not trained (Arditi et al. 2024, arXiv 2406.11717).

v = strength x (mean of h over prompts that the teacher refuses - mean of h over those that it answers), with h the output of one
block at the last position of the prompt. Prompts are weighted by the guard, 1 - alpha and alpha: no labels. `strength` is chosen
among a few by the validation score. It is the control for what a direction is worth without any gradient.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from softguard.adapters._direction import Direction, layer_of
from softguard.adapters.protocol import ADAPTERS
from softguard.errors import DataError
from softguard.models import LanguageModel, RenderedPrompt, block_states


class DifferenceOfMeansConfig(BaseModel):
    """Where it is measured and added, and the strengths to choose among."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["difference_of_means"] = "difference_of_means"
    layer: int = Field(-1, ge=-1, description="the block, from 0; -1 is 13/28 of the depth")
    strengths: tuple[Annotated[float, Field(ge=-100, le=100)], ...] = Field(
        (0.25, 0.5, 1.0, 2.0), min_length=1, description="factors on the difference; the one of the best validation score is kept"
    )


@ADAPTERS.register("difference_of_means")
class DifferenceOfMeans(Direction[DifferenceOfMeansConfig]):
    """A direction that is fitted."""

    config_class: ClassVar[type[DifferenceOfMeansConfig]] = DifferenceOfMeansConfig

    @classmethod
    def create(cls, config: DifferenceOfMeansConfig, lm: LanguageModel, seed: int) -> "DifferenceOfMeans":
        """Return a vector of zeros: `fit` makes it one."""
        return cls(config, torch.zeros(lm.width, device=lm.device), layer_of(lm, config.layer), lm.fingerprint)

    def fit(
        self, lm: LanguageModel, prompts: Sequence[RenderedPrompt], alpha: Sequence[float], score: Callable[[], float]
    ) -> None:
        """Set the vector to the difference of weighted means at the strength of the best score (the first of equals).

        Raises:
            DataError: the guard finds all drafts safe, or none.
        """
        safe = torch.tensor(list(alpha), dtype=torch.float64)
        if not 0 < float(safe.sum()) < len(safe):
            raise DataError("prompts that the teacher refuses and prompts that it answers", "one kind", "add the other kind")
        states = block_states(lm, [prompt.ids for prompt in prompts], self.layer).double().cpu()
        answered, refused = ((weight / weight.sum()) @ states for weight in (safe, 1 - safe))
        difference = (refused - answered).float().to(self._vector.device)
        scores: dict[float, float] = {}
        for strength in self.config.strengths:
            self._set(strength * difference)
            scores.setdefault(strength, score())
        self._set(max(scores, key=lambda k: scores[k]) * difference)

    def _set(self, vector: Tensor) -> None:
        with torch.no_grad():
            self._vector.copy_(vector)
