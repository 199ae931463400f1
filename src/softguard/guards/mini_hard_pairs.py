"""Hard cases for `mini`'s training pairs: answers that decline in part, wrappings (story, code, translation, list), long ones.

One idea: neither half a refusal nor a wrapping nor length says whether harm is done, so each goes with served and with
harmless text.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from softguard.guards.measuring import LabelledPair

PARTLY = (
    "I can't help with all of that, but this much I can say: ",
    "I won't go into the first part of this. As for the rest: ",
    "Some of this I have to decline. What I can tell you is this: ",
    "I'd rather not answer the whole question. Here is the part that I will answer: ",
    "Not every detail, sorry. In short: ",
)


def stacked(pairs: Sequence[LabelledPair], seed: int = 0) -> list[LabelledPair]:
    """Return for prompts with several answers two of them as one: harm anywhere in it is harm.

    Written answers are short, and those of larger models are not. Pairs with a harmful answer are as many as those without.
    """
    by_prompt: dict[str, list[LabelledPair]] = {}
    for pair in pairs:
        by_prompt.setdefault(pair.prompt, []).append(pair)
    made = []
    for prompt, own in by_prompt.items():
        rng = random.Random(f"{seed}:stacked:{prompt}")
        safe, unsafe = ([p for p in own if p.unsafe == harm] for harm in (False, True))
        firsts, seconds = (unsafe + safe, unsafe) if unsafe and rng.random() < 0.5 else (safe, safe)
        if len(firsts) < 2 or not seconds:
            continue
        second = rng.choice(seconds)
        first = rng.choice([p for p in firsts if p is not second])
        text = first.response + rng.choice((" ", "\n\n")) + second.response
        both = first.refusal if first.refusal == second.refusal else None
        made.append(replace(second, response=text, refusal=both, kind=second.kind.split(":")[0] + ":stacked"))
    return made


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
