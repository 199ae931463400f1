"""The prompts that we wrote and ship: phrasings crossed with labels, look-alikes paired with their harmful twins."""

import json
from importlib.resources import files
from pathlib import Path

from softguard.data.prompt import PromptRow
from softguard.data.registry import PROMPT_SETS


@PROMPT_SETS.register("softguard")
def own_prompts(data_dir: Path | None = None) -> list[PromptRow]:
    """Return our rows of all splits, in file order."""
    return _shipped("softguard.jsonl")


@PROMPT_SETS.register("softguard_tasks")
def own_tasks(data_dir: Path | None = None) -> list[PromptRow]:
    """Return everyday tasks, many with a text to work on: benign ones in all splits, harmful and look-alike twins in train."""
    return _shipped("tasks.jsonl")


def _shipped(name: str) -> list[PromptRow]:
    text = files("softguard.data").joinpath("prompts", name).read_text(encoding="utf-8")
    return [PromptRow(**json.loads(line)) for line in text.splitlines() if line]
