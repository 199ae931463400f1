"""The one place that renders chat templates, and says where in a rendered prompt virtual tokens can stand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from jinja2 import TemplateError

from softguard.core import Conversation
from softguard.errors import CompatibilityError, DataError

THINKING = "enable_thinking"
"""The name by which templates of models that can think aloud are told whether to; others ignore it."""
Slot = Literal["front", "after_bos", "system", "after_user", "after_header"]
"""Placements in the order in which they stand in a prompt; after_header is the last before the answer, begun or not."""
BEHIND: frozenset[Slot] = frozenset({"after_user", "after_header"})
"""Slots behind the request's text, around the last assistant header: each request runs them anew, earlier turns have none."""
_SYSTEM_PROBE, _USER_PROBE, _ANSWER_PROBE = "SYSTEMPROBE", "USERPROBE", "ANSWERPROBE"


@dataclass(frozen=True)
class RenderedPrompt:
    """Token ids up to and with the assistant header; `slots` maps a placement to the index before which it inserts."""

    ids: tuple[int, ...]
    slots: Mapping[str, int]

    def insert(self, layout: Sequence[tuple[str, int]]) -> list[int]:
        """Return the ids with virtual tokens put in: `layout` lists (slot, count), virtual tokens numbered in order.

        Raises:
            CompatibilityError: the template has no such slot.
        """
        at: list[tuple[int, int, int]] = []
        first = 0
        for order, (slot, count) in enumerate(layout):
            if slot not in self.slots:
                raise CompatibilityError(
                    f"a chat template with the slot {slot!r}", ", ".join(self.slots), "choose one of these placements"
                )
            at.append((self.slots[slot], order, first))
            first += count
        out = list(self.ids)
        for index, order, start in sorted(at, reverse=True):
            out[index:index] = [-(start + k + 1) for k in range(layout[order][1])]
        return out


class ChatRenderer:
    """Renders conversations with a tokenizer's own template."""

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise CompatibilityError("a tokenizer with a chat template", "none", "use an instruction-tuned model")
        self._tokenizer = tokenizer

    def render(self, conversation: Conversation) -> RenderedPrompt:
        """Return the prompt for the next assistant turn, and for one that has been begun what is there of it.

        Raises:
            DataError: turns that the template does not take.
        """
        begun = conversation.response
        messages = conversation.request.to_dicts()
        try:
            closed, text = self._text(messages, False), self._text(messages, True)
        except TemplateError as error:
            raise DataError(
                "turns that the model's chat template takes", str(error)[:160], "change their order or roles"
            ) from error
        if not text.startswith(closed):
            raise CompatibilityError("a template that appends the assistant header", "another", "report this template")
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = tuple(int(i) for i in encoded["input_ids"])
        starts = [start for start, _ in encoded["offset_mapping"]]
        bos = self._tokenizer.bos_token_id
        has_bos = bos is not None and ids[0] == bos and text.startswith(self._tokenizer.bos_token)
        slots = {"front": 0, "after_bos": 1 if has_bos and not self.bos_opens_turns else 0, "after_header": len(ids)}
        for slot, index in (("after_user", len(closed)), ("system", self._system_end(messages, text))):
            if index is not None and index in starts:
                slots[slot] = starts.index(index)
        return RenderedPrompt((*ids, *self.encode_response(begun)) if begun else ids, slots)

    def encode_response(self, text: str) -> list[int]:
        """Return the ids of an answer's text, without the turn's end."""
        return [int(i) for i in self._tokenizer(text, add_special_tokens=False)["input_ids"]]

    @property
    def rewrites(self) -> bool:
        """Whether a token may change the text of those before it: spaces before punctuation are cleaned up."""
        return bool(getattr(self._tokenizer, "clean_up_tokenization_spaces", False))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of an answer's ids."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text.strip()

    def _text(self, messages: list[dict[str, str]], header: bool) -> str:
        """Return what the template writes. Where it lets a model think aloud first (Qwen3), that is left out: drafts are short,
        and the first token of the answer is where the student decides."""
        options = {"tokenize": False, "add_generation_prompt": header, THINKING: False}
        text: str = self._tokenizer.apply_chat_template(messages, **options)
        return text

    @cached_property
    def bos_opens_turns(self) -> bool:
        """Whether BOS is the turn-opening token itself (ChatML in SmolLM2), so that there is no BOS to stand after."""
        text = self._text([{"role": "user", "content": _USER_PROBE}], True)
        return text.count(self._tokenizer.bos_token or "\0") > 1

    @cached_property
    def user_opening(self) -> str:
        """What the template writes before the content of a first user turn, a system turn of its own included."""
        return self._text([{"role": "user", "content": _USER_PROBE}], False).split(_USER_PROBE, 1)[0]

    @cached_property
    def around_system(self) -> tuple[str, str] | None:
        """What the template writes before the system's content and between it and the user's; None where it takes none."""
        try:
            text = self._text([{"role": "system", "content": _SYSTEM_PROBE}, {"role": "user", "content": _USER_PROBE}], False)
        except TemplateError:  # what a template raises on a role that it does not take is its own choice
            return None
        except Exception as error:  # and it may stumble instead
            if "system" in str(error).lower():
                return None
            raise
        if _SYSTEM_PROBE not in text:
            return None
        before, rest = text.split(_SYSTEM_PROBE, 1)
        after = rest.split(_USER_PROBE, 1)[0]
        return (before, after) if after else None

    def _system_end(self, messages: list[dict[str, str]], text: str) -> int | None:
        """Return where the system's content ends, given or the template's own; None where the prompt has no system turn."""
        if self.around_system is None:
            return None
        before, after = self.around_system
        if messages[0]["role"] == "system":
            start = len(before) + len(messages[0]["content"].strip())
        else:
            start = len(self.user_opening) - len(after)
            if start < len(before) or not text.startswith(self.user_opening):
                return None
        index = text.find(after, start) if text.startswith(before) else -1
        return None if index < 0 else index


def turn_end(tokenizer: Any) -> int | None:
    """Return the first special token that the chat template writes after an assistant's content, None where it writes none.

    The tokenizer's eos is not always it: Gemma closes a turn with <end_of_turn>, Phi-3 with <|end|>.
    """
    turns = [{"role": "user", "content": _USER_PROBE}, {"role": "assistant", "content": _ANSWER_PROBE}]
    try:
        text: str = tokenizer.apply_chat_template(turns, tokenize=False) if getattr(tokenizer, "chat_template", None) else ""
    except TemplateError:
        return None
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | set(tokenizer.all_special_ids)
    after = tokenizer(text.partition(_ANSWER_PROBE)[2], add_special_tokens=False)["input_ids"]
    return next((int(i) for i in after if i in special), None)
