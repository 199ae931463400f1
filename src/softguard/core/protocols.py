"""What rooms promise each other: guards judge, systems answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from softguard.core.conversation import Conversation
from softguard.core.verdict import Verdict

Progress = Callable[[int, int], None]
"""Called with (done, total) as work goes on."""


class Guard(Protocol):
    """Judges (prompt, response) pairs."""

    @property
    def name(self) -> str:
        """The name in tables."""
        ...

    @property
    def fingerprint(self) -> str:
        """What its verdicts depend on, hashed: part of every cache key."""
        ...

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        """Return one verdict for each conversation, in order; each ends with the assistant turn under judgement."""
        ...


@dataclass(frozen=True)
class ReplySettings:
    """How to answer: greedy at temperature 0, else sampled with uniforms keyed on (seed, id), whatever the batch."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Reply:
    """One answer.

    `refusal_log_odds` is log rho - log(1 - rho), with rho the probability of the refusal's first token at the first
    answer position; for the guarded system, the log-odds of 1 - p_safe. `p_safe`, `replaced` and `draft`: guarded only.
    `refused`: the system declined by its operating point or in its own refusal text, in whatever language that is.
    """

    text: str
    refusal_log_odds: float
    truncated: bool = False
    p_safe: float | None = None
    replaced: bool | None = None
    draft: str | None = None
    ungraded: str | None = None
    refused: bool = False


class System(Protocol):
    """Anything that answers conversations: base, guarded system, student, hard system prompt, remote server."""

    @property
    def name(self) -> str:
        """The name in tables."""
        ...

    def respond(
        self,
        conversations: Sequence[Conversation],
        ids: Sequence[str],
        settings: ReplySettings,
        progress: Progress | None = None,
    ) -> list[Reply]:
        """Return one reply for each conversation, in order."""
        ...

    def refusal_log_odds(self, conversations: Sequence[Conversation]) -> list[float]:
        """Return the log-odds of refusing each, one forward pass a prompt (no answer is generated)."""
        ...
