"""Which prompts a run trains, validates and is measured on. Validation and test rows come from our own splits alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from softguard.data import PromptRow, load_prompts
from softguard.errors import DataError
from softguard.recipes.config import DataConfig


@dataclass(frozen=True)
class RunPrompts:
    """Rows by use."""

    train: list[PromptRow]
    validation: list[PromptRow]
    test: list[PromptRow]


def run_prompts(config: DataConfig, data_dir: Path | None) -> RunPrompts:
    """Return the rows of a run.

    Raises:
        DataError: a set without training rows, or a training prompt that stands in validation or test too.
    """
    train: list[PromptRow] = []
    for entry in config.sets:
        name, _, limit = entry.partition(":")
        given = load_prompts(name, data_dir)
        rows = [r for r in given if r.split == "train"]
        if not rows:
            found = f"{len(given)} for other uses"
            raise DataError(f"training rows in the set {name!r}", found, "take it out of data.sets")
        for label in ("harmful", "look_alike", "benign"):
            train += take([r for r in rows if r.label == label], int(limit or config.max_per_set), config.seed)
    validation, test = own_prompts("validation"), own_prompts("test")
    held_out = {r.prompt for r in validation + test}
    leaked = [r.id for r in train if r.prompt in held_out]
    if leaked:
        raise DataError("no prompt in two splits", f"{len(leaked)}, {leaked[0]} first", "remove it from the training set")
    return RunPrompts(train, validation, test)


def own_prompts(split: str) -> list[PromptRow]:
    """Return the rows of our own sets in one split."""
    return [r for name in ("softguard", "softguard_tasks") for r in load_prompts(name) if r.split == split]


def take(rows: Sequence[PromptRow], limit: int, seed: int) -> list[PromptRow]:
    """Return at most `limit` rows (0: all), drawn with a seed, in their own order."""
    if not limit or len(rows) <= limit:
        return list(rows)
    chosen = np.random.default_rng(seed).choice(len(rows), limit, replace=False)
    return [rows[i] for i in sorted(chosen)]


def balanced(rows: Sequence[PromptRow], per_label: int, seed: int) -> list[PromptRow]:
    """Return at most `per_label` rows of each label."""
    return [
        r for label in ("harmful", "look_alike", "benign") for r in take([x for x in rows if x.label == label], per_label, seed)
    ]
