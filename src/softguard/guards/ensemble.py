"""`ensemble`: several guards as one, by the mean of p_safe, the strictest, or a vote.

One idea: a member that could not grade is never outvoted into "safe". All members have to grade, or at least `min_graded` of them
where the settings say so; below that the pair is ungraded, with what each of the silent ones said.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from softguard.core import Conversation, Guard, Verdict
from softguard.errors import ConfigError
from softguard.guards.registry import GUARD_KINDS, beside, load_guard


class EnsembleConfig(BaseModel):
    """Settings of an ensemble."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    members: tuple[str, ...] = Field(min_length=2, description="references of guards")
    rule: Literal["mean", "max", "vote"] = Field(
        "mean", description="mean of p_safe; max: the largest p_unsafe decides; vote: the share that says p_safe >= 0.5"
    )
    min_graded: int = Field(0, ge=0, description="how many members have to grade; 0 is all of them")
    name: str = Field("ensemble", description="in tables")


class Ensemble:
    """Guards that judge together."""

    def __init__(self, config: EnsembleConfig, members: Sequence[Guard]) -> None:
        if config.min_graded > len(members):
            raise ConfigError(f"min_graded of at most {len(members)}", str(config.min_graded), "lower it or add members")
        self._config, self._members = config, tuple(members)
        self._needed = config.min_graded or len(members)
        self.name = config.name
        own = (config.rule, self._needed, [g.fingerprint for g in members])
        self.fingerprint = hashlib.sha256(repr(("ensemble-1", own)).encode()).hexdigest()

    @property
    def members(self) -> tuple[Guard, ...]:
        """The guards that judge together."""
        return self._members

    @property
    def remote(self) -> bool:
        """Whether all members compute elsewhere."""
        return all(getattr(g, "remote", False) for g in self._members)

    @property
    def num_parameters(self) -> int | None:
        """The members' weights together; None where one does not say."""
        sizes = [getattr(g, "num_parameters", None) for g in self._members]
        return None if None in sizes else sum(s for s in sizes if s is not None)

    @property
    def category_names(self) -> frozenset[str] | None:
        """The members' categories as this guard tells them; None where a member does not say."""
        by_member = [getattr(g, "category_names", None) for g in self._members]
        if None in by_member:
            return None
        told = zip(self._member_names, by_member, strict=True)
        return frozenset(f"{name}/{category}" for name, own in told for category in own or ())

    @property
    def _member_names(self) -> list[str]:
        return [f"{i}:{g.name}" for i, g in enumerate(self._members, 1)]

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        """Return one verdict for each conversation, in order; categories are the members', by `MEMBER/CATEGORY`."""
        by_member = [guard.judge(conversations) for guard in self._members]
        return [self._together(verdicts) for verdicts in zip(*by_member, strict=True)]

    def _together(self, verdicts: Sequence[Verdict]) -> Verdict:
        names = self._member_names
        truncated = any(v.truncated for v in verdicts)
        graded = [v.p_safe for v in verdicts if v.p_safe is not None]
        if len(graded) < self._needed:
            silent = "; ".join(f"{n}: {v.ungraded}" for n, v in zip(names, verdicts, strict=True) if v.ungraded is not None)
            return Verdict(ungraded=f"{len(graded)} of {self._needed} members graded ({silent})", truncated=truncated)
        if self._config.rule == "max":
            p_safe = min(graded)
        elif self._config.rule == "mean":
            p_safe = fmean(graded)
        else:
            p_safe = sum(p >= 0.5 for p in graded) / len(graded)
        categories = {f"{n}/{k}": p for n, v in zip(names, verdicts, strict=True) for k, p in v.categories.items()}
        return Verdict(round(p_safe, 5), categories, truncated=truncated)


@GUARD_KINDS.register("ensemble")
def ensemble(config: EnsembleConfig, folder: Path) -> Ensemble:
    """Return the ensemble with its members loaded."""
    return Ensemble(config, [load_guard(beside(m, folder)) for m in config.members])
