"""Messages and conversations: what systems answer and guards judge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from softguard.errors import DataError

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn."""

    role: Role
    content: str


@dataclass(frozen=True)
class Conversation:
    """Turns in order.

    A request ends with the user's turn, or with an assistant's that is to go on; a pair to judge ends with the assistant's.
    """

    messages: tuple[Message, ...]

    @classmethod
    def from_prompt(cls, prompt: str, system: str | None = None) -> "Conversation":
        """Return the conversation of one user turn, after a system turn where one is given."""
        turns = (Message("user", prompt),)
        return cls((Message("system", system), *turns) if system is not None else turns)

    @classmethod
    def from_dicts(cls, messages: Sequence[Mapping[str, object]]) -> "Conversation":
        """Return the conversation of a list of `{"role", "content"}`.

        Raises:
            DataError: a role or a content that is not one.
        """
        turns = []
        for m in messages:
            if not isinstance(m, Mapping) or m.get("role") not in get_args(Role) or not isinstance(m.get("content"), str):
                raise DataError('{"role": system|user|assistant, "content": text}', repr(m)[:80], "correct this message")
            turns.append(Message(cast(Role, m["role"]), str(m["content"])))
        if not turns:
            raise DataError("at least one message", "none", "give the conversation a user turn")
        return cls(tuple(turns))

    def with_response(self, response: str) -> "Conversation":
        """Return this conversation with an assistant's turn at its end."""
        return Conversation((*self.messages, Message("assistant", response)))

    def answered(self, answer: str) -> "Conversation":
        """Return a request with its answer, as guards judge it: one that was begun goes on with it, in one turn."""
        return self.request.with_response(f"{self.response} {answer}".strip() if self.response else answer)

    @property
    def request(self) -> "Conversation":
        """This conversation up to its last user turn: without an answer, whole or begun."""
        return Conversation(self.messages[:-1]) if self.messages and self.messages[-1].role == "assistant" else self

    @property
    def prompt(self) -> str:
        """The last user turn."""
        for m in reversed(self.messages):
            if m.role == "user":
                return m.content
        raise DataError("a user turn", "none", "add a user message")

    @property
    def response(self) -> str:
        """The closing assistant turn, empty where there is none."""
        return self.messages[-1].content if self.messages and self.messages[-1].role == "assistant" else ""

    def to_dicts(self) -> list[dict[str, str]]:
        """Return the messages as chat templates and JSON take them."""
        return [{"role": m.role, "content": m.content} for m in self.messages]
