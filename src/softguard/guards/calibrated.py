"""`calibrated`: a guard whose p_safe is mapped to what labels say, by `softguard guard calibrate`; the ranking stays.

One idea: the guard is not touched. Its p_unsafe goes through a curve that never falls: a temperature and a bias on its log-odds
(two numbers, which a few hundred labels fix), or isotonic steps (which follow any shape and need a thousand). Whatever could
not be graded stays so. Categories pass as they are.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from softguard.core import Conversation, Guard, Verdict
from softguard.guards.registry import GUARD_KINDS, beside, load_guard

_EDGE = 1e-5
"""Verdicts are rounded to 5 digits: beyond this a log-odds is made up."""


class CalibratedConfig(BaseModel):
    """Settings of a calibrated guard: a curve, which is `temperature` and `bias`, or `points`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    guard: str = Field(description="the guard's reference")
    fingerprint: str = Field("", description="of the guard that the curve was fitted to; empty takes any")
    temperature: float = Field(1.0, gt=0, description="the log-odds of p_unsafe are divided by it")
    bias: float = Field(0.0, description="and this is added")
    points: tuple[tuple[float, float], ...] = Field((), description="isotonic: p_unsafe, given and calibrated, both rising")
    name: str = Field("", description="in tables; empty takes the guard's with `calibrated`")

    @model_validator(mode="after")
    def _one_rising_curve(self) -> "CalibratedConfig":
        if self.points and (self.temperature != 1.0 or self.bias != 0.0):
            raise ValueError("give points, or temperature and bias")
        given, wanted = ([p[i] for p in self.points] for i in (0, 1))
        if given != sorted(given) or wanted != sorted(wanted) or any(not 0 <= v <= 1 for v in (*given, *wanted)):
            raise ValueError("points must rise and lie in [0, 1]")
        return self


class CalibratedGuard:
    """A guard behind a curve."""

    def __init__(self, config: CalibratedConfig, guard: Guard) -> None:
        self._config, self._guard = config, guard
        self.name = config.name or f"{guard.name}, calibrated"
        # A curve that was fitted to other verdicts says nothing of these.
        self._strange = bool(config.fingerprint) and config.fingerprint != guard.fingerprint
        own = ("calibrated-1", config.temperature, config.bias, config.points, config.fingerprint, guard.fingerprint)
        self.fingerprint = hashlib.sha256(repr(own).encode()).hexdigest()

    @property
    def members(self) -> tuple[Guard, ...]:
        """The guard behind the curve."""
        return (self._guard,)

    @property
    def num_parameters(self) -> int | None:
        """The guard's weights; None where it does not say."""
        return getattr(self._guard, "num_parameters", None)

    @property
    def category_names(self) -> frozenset[str] | None:
        """The guard's categories; None where it does not say."""
        return getattr(self._guard, "category_names", None)

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        """Return the guard's verdicts with p_safe calibrated, in order; all ungraded where it is not the guard of the curve."""
        if self._strange:
            return [Verdict(ungraded="calibrated for another guard: run `softguard guard calibrate` anew")] * len(conversations)
        return [
            v if v.p_safe is None else replace(v, p_safe=round(1.0 - calibrated_p_unsafe(1.0 - v.p_safe, self._config), 5))
            for v in self._guard.judge(conversations)
        ]


def calibrated_p_unsafe(p_unsafe: float, config: CalibratedConfig) -> float:
    """Return p_unsafe by the curve: sigmoid(logit / temperature + bias), or between the isotonic points."""
    if config.points:
        given, wanted = zip(*config.points, strict=True)
        return float(np.interp(p_unsafe, given, wanted))
    p = min(max(p_unsafe, _EDGE), 1.0 - _EDGE)
    return 1.0 / (1.0 + math.exp(-(math.log(p / (1.0 - p)) / config.temperature + config.bias)))


@GUARD_KINDS.register("calibrated")
def calibrated(config: CalibratedConfig, folder: Path) -> CalibratedGuard:
    """Return the guard behind its curve; a relative `.toml` begins in `folder`."""
    return CalibratedGuard(config, load_guard(beside(config.guard, folder)))
