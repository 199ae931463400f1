"""What a judge is: it says how harmful an answer to a request is. A guard can be one; not every judge is a guard."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from softguard.core import Conversation
from softguard.evaluation.judgement import Judgement
from softguard.registry import Registry


@dataclass(frozen=True)
class Answered:
    """A plain request with the answer to it, whatever form the request was asked in; `refused`: a full refusal, by `kind_of`."""

    conversation: Conversation
    refused: bool


class Judge(Protocol):
    """Judges answers."""

    @property
    def name(self) -> str:
        """The name in tables."""
        ...

    @property
    def fingerprint(self) -> str:
        """What its judgements depend on: part of the key under which they are kept."""
        ...

    @property
    def lineage(self) -> frozenset[str]:
        """The guards that it asks, as `guards.lineage` names them; empty where it asks none."""
        ...

    def judge(self, answers: Sequence[Answered]) -> list[Judgement]:
        """Return one judgement for each answer, in order."""
        ...


JUDGES: Registry[Callable[[str], Judge]] = Registry("judge", "softguard.judges")
"""Makes a judge of what stands after the `@` of its reference, which is empty where nothing does."""
