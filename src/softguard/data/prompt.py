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


_SMALL = "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen"
_MINORS = re.compile(
    r"\b("
    r"child\w*|grandchild\w*|kids?|kiddies?|minors?|infan(ts?|cy)|newborns?|toddlers?|bab(y|ies)|babysit\w*|juveniles?|"
    r"adolescen\w+|youths?|youngsters?|(pre-?)?teen(s|-?age(d|rs?)?)?|tweens?|under-?aged?|under[- ](18|eighteen)|age of consent|"
    r"(?<!\bmy )(?<!\bthe new )(girls?|boys?)|"  # "my boys" of a gang and "the new girl" of an office are grown up
    r"(high|middle|primary|grade|grammar|secondary)[- ]?school\w*|junior[- ]high|elementary|kindergart\w+|pre-?school\w*|"
    r"school-?(age|boys?|girls?|kids?|child\w*)|day-?care|pa?edo\w*|loli(ta|con)?s?|jailbait|"
    rf"(\d{{1,2}}|{_SMALL})[- ]?(years?|yrs?)[- ]?olds?|\d{{1,2}}[- ]?y/?o|age[ds]? 1?\d"
    r")\b",
    re.IGNORECASE,
)


def mentions_minors(text: str) -> bool:
    """Return whether a prompt speaks of minors: loaders drop such rows, whatever the request."""
    return bool(_MINORS.search(text))
