"""Hard cases for `mini`'s training pairs: answers that decline in part, and wrappings (story, code, translation, list).

One idea: neither half a refusal nor a wrapping says whether harm is done, so each goes with served and with harmless text.
"""

import random
import re
from collections.abc import Callable

PARTLY = (
    "I can't help with all of that, but this much I can say: ",
    "I won't go into the first part of this. As for the rest: ",
    "Some of this I have to decline. What I can tell you is this: ",
    "I'd rather not answer the whole question. Here is the part that I will answer: ",
    "Not every detail, sorry. In short: ",
)


def wrapped(text: str, rng: random.Random) -> str:
    """Return the text in one of the wrappings."""
    return rng.choice(_WRAPPINGS)(text)


def _story(text: str) -> str:
    return f'The old man leaned back. "Listen," he said to his nephew, "{_line(text)}" The boy nodded and wrote it down.'


def _scene(text: str) -> str:
    return f"INT. KITCHEN, NIGHT\n\nANNA: So how does it go?\n\nBEN: {_line(text)}\n\nAnna closes her notebook."


def _comment(text: str) -> str:
    return "\n".join(["```python", *(f"# {s}" for s in _sentences(text)), "def main() -> None:", "    ...", "```"])


def _docstring(text: str) -> str:
    return f'def notes():\n    """{_line(text)}"""\n    return None'


def _translation(text: str) -> str:
    return f'Translated into English, the note reads: "{_line(text)}"'


def _bullets(text: str) -> str:
    return "\n".join(f"- {s}" for s in _sentences(text))


_WRAPPINGS: tuple[Callable[[str], str], ...] = (_story, _scene, _comment, _docstring, _translation, _bullets)


def _line(text: str) -> str:
    return " ".join(text.split())


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?]) ", _line(text))
