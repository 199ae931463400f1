"""PPO: the clipped surrogate on the student's own responses, with a value head, GAE and a KL penalty to the unprompted base.

Reward of token t: -beta (log q_old(y_t) - log p_base(y_t)), and p(s=1|x,y) at the last. A_t = delta_t + gamma lambda A_{t+1},
delta_t = r_t + gamma V_{t+1} - V_t, V = 0 after the last token; then A is brought to mean 0 and deviation 1 over the batch.
L = -mean_t min(rho_t A_t, clip(rho_t, 1-eps, 1+eps) A_t) + 1/2 mean_t (V_t - A_t - V_t,old)^2, rho_t = q(y_t) / q_old(y_t).

The reference is the base model without W: a prompted reference would anchor to a random shift. The value head reads states
without a gradient, so that its error does not move W. `preset = "paper"` takes the paper's settings; at its learning rates a
soft prompt hardly moves in 200 steps, so that a grid of its own is at hand: `LEARNING_RATES`, `PAPER_LEARNING_RATES`.

References:
    Schulman et al. 2017, arXiv 1707.06347, eq. 7; GAE: Schulman et al. 2016, arXiv 1506.02438, eq. 16.
    Settings and KL: Alfarra et al. 2026, arXiv 2606.09388, section 4 and appendix.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from softguard.objectives.protocol import OBJECTIVES, Branch, Need, ObjectiveInput, ObjectiveOutput, Sampling

PAPER_LEARNING_RATES = (0.1e-7, 3e-7, 6e-7, 9e-7)
LEARNING_RATES = (1e-3, 3e-3, 1e-2, 3e-2)
"""Of W. Adam moves each number by about its rate a step, and embeddings are of the order of 0.1 to 1."""
PRESETS: dict[str, dict[str, Any]] = {
    "ours": {},
    "paper": {
        "clip": 0.2,
        "gae_lambda": 0.95,
        "discount": 1.0,
        "reference_kl_weight": 0.01,
        "max_new_tokens": 100,
        "value_learning_rate": 1e-4,
    },
}


class PpoConfig(BaseModel):
    """Surrogate, advantages and responses."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["ppo"] = "ppo"
    preset: Literal["ours", "paper"] = Field("ours", description="settings that are not given come from it")
    clip: float = Field(0.2, gt=0, lt=1, description="eps: how far the ratio of new to old probability counts")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="1 is the return less the value, 0 one step of it")
    discount: float = Field(1.0, gt=0, le=1, description="gamma, for each token")
    reference_kl_weight: float = Field(0.01, ge=0, description="beta, on the KL to the unprompted base model; 0 saves its pass")
    updates: int = Field(2, gt=0, description="optimiser steps on the same responses")
    max_new_tokens: int = Field(48, gt=0, description="length of a sampled response; the guard judges the same truncated text")
    value_learning_rate: float = Field(1e-3, gt=0, description="peak rate of the value head")

    @model_validator(mode="before")
    @classmethod
    def _preset_first(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {**PRESETS.get(str(data.get("preset", "ours")), {}), **data}


@OBJECTIVES.register("ppo")
class Ppo:
    """The loss of this module."""

    needs: frozenset[Need]
    branch_floor = 0.0
    answer_tokens = 0

    def __init__(self, config: PpoConfig) -> None:
        self._config = config
        self.needs = frozenset({"on_policy", "dense"} if config.reference_kl_weight else {"on_policy"})
        self.sampling = Sampling(config.max_new_tokens, updates=config.updates, value_learning_rate=config.value_learning_rate)

    def __call__(self, batch: ObjectiveInput) -> ObjectiveOutput:
        """Return the mean over tokens; logs the parts, the KL of whole responses and the share of clipped ratios."""
        assert batch.samples is not None
        c, samples, answer = self._config, batch.samples, batch.answer
        log_probs = answer.log_probs()
        old = log_probs.detach() if samples.old_log_probs is None else samples.old_log_probs
        drift = old - answer.base_log_probs() if "dense" in self.needs else torch.zeros_like(old)
        rewards = token_rewards(answer, samples.reward, -c.reference_kl_weight * drift)
        advantage = generalised_advantages(answer, rewards, samples.old_values, c.discount, c.gae_lambda)
        ratio = torch.exp(log_probs - old)
        policy = clipped_surrogate(ratio, _standardised(advantage), c.clip)
        value = 0.5 * (samples.values - samples.old_values - advantage).square().mean()
        figures = {
            "policy": float(policy.detach()),
            "value": float(value.detach()),
            "reference_kl": float(drift.sum() / max(1, len(samples.reward))),
            "clip_fraction": float(((ratio.detach() - 1).abs() > c.clip).float().mean()),
        }
        return ObjectiveOutput(policy + value, figures)


def clipped_surrogate(ratio: Float[Tensor, " tokens"], advantage: Float[Tensor, " tokens"], clip: float) -> Float[Tensor, ""]:
    """Return -mean min(rho A, clip(rho) A)."""
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()


def token_rewards(answer: Branch, reward: Float[Tensor, " rows"], each: Float[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    """Return the rewards of the tokens: `each`, and the response's `reward` at its last token."""
    last = torch.zeros(len(reward), dtype=torch.long, device=each.device).scatter_reduce(
        0, answer.row, answer.position, "amax", include_self=True
    )
    return each + torch.where(answer.position == last[answer.row], reward[answer.row], 0.0)


@torch.no_grad()
def generalised_advantages(
    answer: Branch, rewards: Float[Tensor, " tokens"], values: Float[Tensor, " tokens"], discount: float, gae_lambda: float
) -> Float[Tensor, " tokens"]:
    """Return the generalised advantage estimate of each token; nothing has a value after a response's last token."""
    rows = int(answer.row.max()) + 1 if len(answer.row) else 0
    length = int(answer.position.max()) + 1 if len(answer.position) else 0
    place = (answer.row, answer.position)
    reward, value = (rewards.new_zeros(rows, length + 1).index_put(place, x) for x in (rewards, values))
    out = torch.zeros_like(reward)
    for t in range(length - 1, -1, -1):  # beyond a response's end all is 0
        delta = reward[:, t] + discount * value[:, t + 1] - value[:, t]
        out[:, t] = delta + discount * gae_lambda * out[:, t + 1]
    return out[place]


def _standardised(values: Tensor) -> Tensor:
    deviation = values.std() if len(values) > 1 else values.new_zeros(())
    return (values - values.mean()) / (deviation + 1e-8)
