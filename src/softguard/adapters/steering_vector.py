"""A learned vector added to the output of one block, at every position (the paper's DiSV).

It is the smallest adapter, D numbers, and cannot look at the request: it shifts all of them alike.
"""

from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from softguard.adapters._direction import Direction, layer_of
from softguard.adapters.protocol import ADAPTERS
from softguard.models import LanguageModel


class SteeringVectorConfig(BaseModel):
    """Where it is added, and how it starts."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["steering_vector"] = "steering_vector"
    layer: int = Field(
        -1, ge=-1, description="the block whose output it is added to, from 0; -1 is 13/28 of the depth, the paper's 13 of 28"
    )
    initial_scale: float = Field(0.0, ge=0, description="standard deviation of its first entries; 0 begins as the base model")


@ADAPTERS.register("steering_vector")
class SteeringVector(Direction[SteeringVectorConfig]):
    """A direction that is trained."""

    config_class: ClassVar[type[SteeringVectorConfig]] = SteeringVectorConfig

    @classmethod
    def create(cls, config: SteeringVectorConfig, lm: LanguageModel, seed: int) -> "SteeringVector":
        """Return a fresh steering vector for `lm`."""
        generator = torch.Generator().manual_seed(seed)
        vector = config.initial_scale * torch.randn(lm.width, generator=generator)
        return cls(config, vector.to(lm.device), layer_of(lm, config.layer), lm.fingerprint)
