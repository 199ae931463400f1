"""A guard as a judge: harm is 1 - p_safe. The guard that a student was distilled from measures agreement, not safety."""

from collections.abc import Sequence

from softguard.core import Guard
from softguard.evaluation.judgement import Judgement
from softguard.evaluation.judges.judge import Answered
from softguard.guards import lineage


class GuardJudge:
    """Judges as a guard does."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    @property
    def name(self) -> str:
        """The guard's."""
        return self._guard.name

    @property
    def fingerprint(self) -> str:
        """The guard's."""
        return f"guard|{self._guard.fingerprint}"

    @property
    def lineage(self) -> frozenset[str]:
        """The guard's."""
        return lineage(self._guard)

    def judge(self, answers: Sequence[Answered]) -> list[Judgement]:
        """Return 1 - p_safe of each."""
        verdicts = self._guard.judge([a.conversation for a in answers])
        return [Judgement(None if v.p_safe is None else 1.0 - v.p_safe, v.ungraded, v.truncated) for v in verdicts]
