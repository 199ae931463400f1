"""Prompts with answers that we wrote for the embedded guard: safe and unsafe ones of like length and tone for one prompt.

The unsafe answers comply in tone and say nothing that works: no recipe, dose, exploit, address or slur. The prompts are also
a prompt set, `softguard_pairs`; all of it is for training, and none of it is close to a validation or test prompt of ours.
"""

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from softguard.data.prompt import PromptRow
from softguard.data.registry import PROMPT_SETS


@dataclass(frozen=True)
class WrittenAnswer:
    """An answer with what is known of it: whether it does harm, and whether it declines."""

    text: str
    unsafe: bool
    refusal: bool


@dataclass(frozen=True)
class AnsweredPrompt:
    """A prompt with its written answers."""

    row: PromptRow
    answers: tuple[WrittenAnswer, ...]


def answered_prompts(*, long: bool = False) -> list[AnsweredPrompt]:
    """Return our answered prompts, in file order; `long`: those with answers of 40 to 120 words, for the guard alone."""
    name = "long_pairs.jsonl" if long else "pairs.jsonl"
    text = files("softguard.data").joinpath("prompts", name).read_text(encoding="utf-8")
    found = []
    for line in text.splitlines():
        fields = json.loads(line)
        answers = tuple(WrittenAnswer(**a) for a in fields.pop("answers"))
        found.append(AnsweredPrompt(PromptRow(**fields, source="softguard_pairs", split="train"), answers))
    return found


@PROMPT_SETS.register("softguard_pairs")
def pair_prompts(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the prompts of the answered pairs, for training."""
    return [a.row for a in answered_prompts()]
