"""The one place that renders chat templates, and says where in a rendered prompt virtual tokens can stand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from softguard.core import Conversation
from softguard.errors import CompatibilityError

Slot = Literal["front", "after_bos", "system", "after_user"]
_SYSTEM_PROBE, _USER_PROBE = "SYSTEMPROBE", "USERPROBE"


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
        """Return the prompt for the next assistant turn."""
        messages = conversation.to_dicts()
        closed = self._text(messages, False)
        text = self._text(messages, True)
        if not text.startswith(closed):
            raise CompatibilityError("a template that appends the assistant header", "another", "report this template")
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = tuple(int(i) for i in encoded["input_ids"])
        starts = [start for start, _ in encoded["offset_mapping"]]
        bos = self._tokenizer.bos_token_id
        has_bos = bos is not None and ids[0] == bos and text.startswith(self._tokenizer.bos_token)
        slots = {"front": 0, "after_bos": 1 if has_bos and not self._bos_opens_turns else 0}
        for slot, index in (("after_user", len(closed)), ("system", self._system_end(text))):
            if index is not None and index in starts:
                slots[slot] = starts.index(index)
        return RenderedPrompt(ids, slots)

    def encode_response(self, text: str) -> list[int]:
        """Return the ids of an answer's text, without the turn's end."""
        return [int(i) for i in self._tokenizer(text, add_special_tokens=False)["input_ids"]]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of an answer's ids."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text.strip()

    def _text(self, messages: list[dict[str, str]], header: bool) -> str:
        text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=header)
        return text

    @cached_property
    def _bos_opens_turns(self) -> bool:
        """Whether BOS is the turn-opening token itself (ChatML in SmolLM2), so that there is no BOS to stand after."""
        text = self._text([{"role": "user", "content": _USER_PROBE}], True)
        return text.count(self._tokenizer.bos_token or "\0") > 1

    @cached_property
    def _system_suffix(self) -> str | None:
        """What the template writes between the system's content and the user's."""
        try:
            text = self._text([{"role": "system", "content": _SYSTEM_PROBE}, {"role": "user", "content": _USER_PROBE}], False)
        except Exception as error:  # a Jinja template may raise anything on a role that it does not know
            if "system" in str(error).lower():
                return None
            raise
        if _SYSTEM_PROBE not in text:
            return None
        return text.split(_SYSTEM_PROBE, 1)[1].split(_USER_PROBE, 1)[0] or None

    def _system_end(self, text: str) -> int | None:
        if self._system_suffix is None:
            return None
        index = text.find(self._system_suffix)
        return None if index < 0 else index
