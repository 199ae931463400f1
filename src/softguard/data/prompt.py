"""One prompt with what is known of it."""

import re
from dataclasses import dataclass
from typing import Literal

from softguard.core import Conversation

Label = Literal["harmful", "look_alike", "benign"]
Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class PromptRow:
    """A prompt; `look_alike_of` is the id of the harmful twin whose alarming words a look-alike shares."""

    id: str
    prompt: str
    label: Label
    source: str
    topic: str = ""
    harm_category: str | None = None
    phrasing: str | None = None
    look_alike_of: str | None = None
    kind: str | None = None
    split: Split = "test"

    @property
    def conversation(self) -> Conversation:
        """The prompt as a single user turn."""
        return Conversation.from_prompt(self.prompt)


_MINORS = re.compile(
    r"\b(child(ren)?|kids?|minors?|under-?age|teen(s|ager|agers|age)?|toddlers?|infants?|bab(y|ies)|preteens?|school-?(boys?|girls?)|"
    r"p(a)?edo\w*|lolita?|juveniles?|\d{1,2}[- ]year[- ]old)\b",
    re.IGNORECASE,
)


def mentions_minors(text: str) -> bool:
    """Return whether a prompt speaks of minors: loaders of harmful sets drop such rows, whatever the request."""
    return bool(_MINORS.search(text))
