"""What verification and timing ask of a runtime. Ids are its own: a virtual token has the id that the export gave it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from softguard.core import Conversation


@dataclass(frozen=True)
class RuntimeReply:
    """An answer, and the log-probabilities (nats) of the likeliest tokens at its first position, as the model gives them."""

    text: str
    truncated: bool
    first: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TimedAnswer:
    """What one request took: seconds from its sending to each of its tokens, and the tokens."""

    arrivals: tuple[float, ...]
    ids: tuple[int, ...]


class TimedRuntime(Protocol):
    """A loaded model whose answers are timed, in several slots at once."""

    @property
    def name(self) -> str:
        """The runtime and its version."""
        ...

    @property
    def peak_resident_bytes(self) -> int:
        """The most memory that its process has held, its mapped model included; 0 where the system does not tell."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of a text."""
        ...

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """See `Runtime.prompt_ids`."""
        ...

    def timed(self, ids: Sequence[int], count: int, *, slot: int = 0, cached: bool = True) -> TimedAnswer:
        """Return what `count` likeliest tokens took, those that would end an answer taken as any other.

        Args:
            ids: of the prompt.
            count: of tokens.
            slot: what keeps keys and values between requests; threads may ask at once, each with a slot of its own.
            cached: whether what the slot's last request began with alike is taken from there.
        """
        ...


class Runtime(Protocol):
    """A loaded model that answers in some runtime."""

    @property
    def name(self) -> str:
        """The runtime and its version."""
        ...

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """Return the ids that the runtime's template and tokenizer make of a conversation, up to the assistant's header."""
        ...

    def log_probs(self, ids: Sequence[int], top: int) -> dict[int, float]:
        """Return the log-probabilities of the `top` likeliest next tokens."""
        ...

    def generate(self, ids: Sequence[int], count: int, temperature: float = 0.0, seed: int = 0) -> list[int]:
        """Return at most `count` next ids, the likeliest at temperature 0; it ends early where the model ends its turn."""
        ...

    def answer(self, conversation: Conversation, max_new_tokens: int, top: int) -> RuntimeReply:
        """Return the greedy answer that a user of the runtime's chat gets."""
        ...
