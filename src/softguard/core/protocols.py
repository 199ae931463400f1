"""What rooms promise each other: guards judge, systems answer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
    answer position; for the guarded system, the log-odds of 1 - alpha. `p_safe`, `replaced`, `draft` and `alpha`, the probability
    with which the draft was kept (p_safe, unless a policy says otherwise): guarded only.
    `refused`: the system declined by its operating point or in its own refusal text, in whatever language that is; a text of its
    policy's `refuse` is one. `instead`, guarded only: under a policy, what might have stood in the draft's place, no refusals
    (of `answer_unknown`, a rewriting), each with its probability; what is left of 1 - `kept` goes to refusals.
    """

    text: str
    refusal_log_odds: float
    truncated: bool = False
    p_safe: float | None = None
    replaced: bool | None = None
    draft: str | None = None
    ungraded: str | None = None
    refused: bool = False
    alpha: float | None = None
    instead: Mapping[str, float] = field(default_factory=dict, hash=False)

    @property
    def kept(self) -> float:
        """The probability with which this answer, or the guarded system's draft, is what the system says."""
        known = self.p_safe if self.alpha is None else self.alpha
        return 1.0 if known is None else known

    @property
    def declined(self) -> bool:
        """Whether what stands here is the system's refusal: a text put in a draft's place is one unless it is of `instead`."""
        return self.refused or (bool(self.replaced) and self.text not in self.instead)


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


@dataclass(frozen=True)
class Piece:
    """What one pass of a network (the model's or the guard's) adds to an answer.

    Attributes:
        text: what may be shown now; often nothing. All pieces together are the reply's text.
        tokens: what the model has made so far, whether it is shown or not.
        reply: with the last piece, and then never None.
        answer_tokens: of the reply's text, with the last piece.
    """

    text: str = ""
    tokens: int = 0
    reply: Reply | None = None
    answer_tokens: int = 0


class StreamingSystem(System, Protocol):
    """A system that can be heard while it answers."""

    @property
    def context(self) -> int | None:
        """The most tokens that prompt and answer may have together; None where the model does not say."""
        ...

    def prompt_length(self, conversation: Conversation) -> int:
        """Return the tokens of a prompt as the model sees it, virtual tokens included.

        Raises:
            DataError: turns that the model's template does not take.
        """
        ...

    def stream(self, conversation: Conversation, key: str, settings: ReplySettings) -> Iterator[Piece]:
        """Give the reply that `respond` returns for a conversation with the id `key`, piece by piece.

        Other requests may be served between two pieces, on the same model too, and the caller may stop at any of them.
        """
        ...
