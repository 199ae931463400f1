"""The body of POST /v1/chat/completions: what of OpenAI's interface is understood, and what is refused.

A parameter that would change the answer and that the engine does not have is an error, unless its value is the one that changes
nothing. Those that change nothing at all (who asks, tags, storage elsewhere) are let pass.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from softguard.core import Conversation, Message
from softguard.serving.request_error import RequestError

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "top_p": (1,),
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logprobs": (False,),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
"""Values at which a parameter that we lack does nothing; for every parameter null and an empty list or object are such, too."""

_WITHOUT_EFFECT = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Part(_Strict):
    type: Literal["text"]
    text: str


class _Message(_Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part]

    def message(self) -> Message:
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message("system" if self.role == "developer" else self.role, content)


class _StreamOptions(_Strict):
    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(_Strict):
    """A request that can be answered. `judge` is ours: the guard's p_safe of the answer is given with it."""

    model: str
    messages: list[_Message] = Field(min_length=1)
    stream: bool = False
    stream_options: _StreamOptions = _StreamOptions()
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(0.0, ge=0, le=2, allow_inf_nan=False)
    seed: int | None = Field(None, ge=0, lt=2**63)
    judge: bool = False

    @property
    def answer_tokens(self) -> int | None:
        """The longest answer that is asked for; None leaves it to the server."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    def conversation(self) -> Conversation:
        """Return the turns, a developer's as the system's."""
        return Conversation(tuple(m.message() for m in self.messages))


def parse_request(body: bytes) -> ChatRequest:
    """Return the request of a body.

    Raises:
        RequestError: 400: not JSON, an unknown parameter, a wrong value, turns that do not end with the user's.
    """
    try:
        raw = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(400, "a body of JSON", "something else", "correct it", code="invalid_json") from error
    if not isinstance(raw, dict):
        raise RequestError(400, "a JSON object", type(raw).__name__, "see docs/serving.md", code="invalid_json")
    try:
        request = ChatRequest.model_validate(_understood(raw))
    except ValidationError as error:
        raise _explained(error) from error
    texts = [turn.content for turn in request.conversation().messages]
    if any("\0" in text or not _whole(text) for text in texts):
        raise _bad_message("text of whole characters without NUL", "half a pair, or NUL", "remove it")
    if request.messages[-1].role != "user" or not texts[-1].strip():
        raise _bad_message("a user's turn with text at the end", "another", "end the messages with the user's turn")
    return request


def _bad_message(expected: str, found: str, todo: str) -> RequestError:
    return RequestError(400, expected, found, todo, code="invalid_value", param="messages")


def _understood(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that we have; those that do nothing are left out, those that we lack raise."""
    kept = {}
    for name, value in raw.items():
        if name in ChatRequest.model_fields:
            if value is not None:
                kept[name] = value
        elif not (name in _WITHOUT_EFFECT or _empty(value) or value in _NEUTRAL.get(name, ())):
            allowed = " or ".join(repr(v) for v in _NEUTRAL.get(name, ()))
            todo = f"leave it out, or set it to {allowed}" if allowed else "leave it out"
            shown = name[:40].encode(errors="backslashreplace").decode()
            raise RequestError(400, "parameters that this engine has", shown, todo, code="unsupported_parameter", param=shown)
    if isinstance(kept.get("messages"), list):
        kept["messages"] = [_without_empty(m) for m in kept["messages"]]
    return kept


def _without_empty(message: Any) -> Any:
    """Return a message without fields that say nothing: clients send earlier answers back with a null `refusal` and more."""
    return {k: v for k, v in message.items() if k == "content" or not _empty(v)} if isinstance(message, dict) else message


def _empty(value: Any) -> bool:
    return value is None or value == [] or value == {}


def _whole(text: str) -> bool:
    """Return whether a text can be written down: JSON can hold half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _explained(error: ValidationError) -> RequestError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("str", "list[_Part]"))
    shown = where[:80].encode(errors="backslashreplace").decode()
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    given = first.get("input")
    found = repr(given) if isinstance(given, int | float) else f"of type {type(given).__name__}"
    what = "nothing" if first["type"] == "missing" else f"a value {found}"
    return RequestError(400, f"a valid {shown}", what, first["msg"], code=code, param=shown)
