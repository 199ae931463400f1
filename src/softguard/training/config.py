"""Settings of the loop."""

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TrainingConfig(BaseModel):
    """Optimisation, validation and stopping."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    steps: int = Field(150, gt=0, description="optimiser steps")
    batch_size: int = Field(16, gt=1, description="prompts in a step's forward pass")
    accumulation: int = Field(1, gt=0, description="forward passes in a step; processes that train together share them")
    learning_rate: float = Field(0.015, gt=0, description="peak; soft prompts want far more than weights do")
    warmup_steps: int = Field(10, ge=0, description="linear rise, then cosine to a tenth")
    adam_epsilon: float = Field(1e-7, gt=0, description="the paper's")
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of the gradient of all adapter parameters")
    harmful_share: float = Field(0.5, gt=0, lt=1, description="share of prompts labelled harmful in a batch")
    validate_every: int = Field(25, gt=0, description="steps between validations and checkpoints")
    validation_prompts: int = Field(128, gt=1, description="prompts for the validation AUC, at most")
    drift_prompts: int = Field(32, gt=1, description="prompts for the validation drift, half benign and half look-alike, at most")
    drift_weight: float = Field(
        0.5,
        ge=0,
        description="score = AUC of s (harmful against look-alike) - drift_weight * benign KL in nats per token",
    )
    on_policy_fraction: float = Field(
        0.0, ge=0, le=1, description="share of the responses that come from the student, judged anew; of a distillation objective"
    )
    on_policy_tokens: int = Field(48, gt=0, description="length of such a response; the guard judges the same truncated text")
    token_budget: int = Field(2048, gt=0, description="padded tokens in one pass through the body")
    seed: int = Field(0, ge=0, description="of the batches and of W")

    @property
    def harmful_per_batch(self) -> int:
        """Prompts labelled harmful in a batch."""
        return round(self.batch_size * self.harmful_share)

    @model_validator(mode="after")
    def _batches_hold_both(self) -> "TrainingConfig":
        if not 0 < self.harmful_per_batch < self.batch_size:
            found = f"harmful_share {self.harmful_share} makes {self.harmful_per_batch} harmful prompts of {self.batch_size}"
            raise ValueError(f"{found}, a batch needs both kinds")
        return self
