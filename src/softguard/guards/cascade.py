"""`cascade`: a cheap guard first, and a strong one for what the cheap one is unsure of or could not grade.

One idea: most pairs are clear, so the strong guard's cost falls on the few that are not. Where the strong guard cannot grade, the
pair is ungraded: the cheap one's doubt is no verdict.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from softguard.core import Conversation, Guard, Verdict
from softguard.guards.registry import GUARD_KINDS, beside, load_guard


class CascadeConfig(BaseModel):
    """Settings of a cascade."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    first: str = Field(description="the cheap guard's reference")
    then: str = Field(description="the strong guard's reference")
    unsafe_below: float = Field(0.05, ge=0, le=1, description="p_safe of the first below which its verdict stands")
    safe_above: float = Field(0.95, ge=0, le=1, description="p_safe of the first above which its verdict stands")
    name: str = Field("cascade", description="in tables")

    @model_validator(mode="after")
    def _ordered(self) -> "CascadeConfig":
        if self.unsafe_below > self.safe_above:
            raise ValueError("unsafe_below must not be above safe_above")
        return self


class Cascade:
    """Two guards, the second asked only where it is needed."""

    def __init__(self, config: CascadeConfig, first: Guard, then: Guard) -> None:
        self._config, self._first, self._then = config, first, then
        self.name = config.name
        own = (config.unsafe_below, config.safe_above, first.fingerprint, then.fingerprint)
        self.fingerprint = hashlib.sha256(repr(("cascade-1", own)).encode()).hexdigest()

    @property
    def members(self) -> tuple[Guard, ...]:
        """Both guards."""
        return (self._first, self._then)

    @property
    def remote(self) -> bool:
        """Whether both compute elsewhere."""
        return all(getattr(g, "remote", False) for g in (self._first, self._then))

    @property
    def num_parameters(self) -> int | None:
        """Both guards' weights together; None where one does not say."""
        sizes = [getattr(g, "num_parameters", None) for g in (self._first, self._then)]
        return None if None in sizes else sum(s for s in sizes if s is not None)

    @property
    def category_names(self) -> frozenset[str] | None:
        """Both guards' categories; None where one does not say."""
        names = [getattr(g, "category_names", None) for g in (self._first, self._then)]
        return None if None in names else frozenset().union(*(n for n in names if n is not None))

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        """Return one verdict for each conversation, in order: the first guard's where it is sure, else the second's."""
        verdicts = self._first.judge(conversations)
        rows = [i for i, v in enumerate(verdicts) if not self._sure(v)]
        for i, verdict in zip(rows, self._then.judge([conversations[i] for i in rows]) if rows else [], strict=True):
            verdicts[i] = verdict
        return verdicts

    def _sure(self, verdict: Verdict) -> bool:
        p = verdict.p_safe
        return p is not None and not verdict.truncated and (p < self._config.unsafe_below or p > self._config.safe_above)


@GUARD_KINDS.register("cascade")
def cascade(config: CascadeConfig, folder: Path) -> Cascade:
    """Return the cascade with both guards loaded."""
    return Cascade(config, load_guard(beside(config.first, folder)), load_guard(beside(config.then, folder)))
