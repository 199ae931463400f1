"""Prompt sets by name."""

import os
from collections.abc import Callable
from pathlib import Path

from softguard.data.prompt import PromptRow
from softguard.registry import Registry

Loader = Callable[[Path | None], list[PromptRow]]
PROMPT_SETS: Registry[Loader] = Registry("prompt set", "softguard.prompt_sets")


def load_prompts(name: str, data_dir: Path | None = None) -> list[PromptRow]:
    """Return the rows of a set by name.

    Args:
        name: `softguard` (ours) or a public set.
        data_dir: the folder of public sets; None takes SOFTGUARD_DATA. What it lacks is fetched where it can be.

    Raises:
        ConfigError: no such set.
        DataError: its file is absent or not what it has to be; the message names its home.
    """
    return PROMPT_SETS.get(name)(data_folder(data_dir))


def data_folder(data_dir: Path | None) -> Path | None:
    """Return the folder of public sets: the given one, else that of SOFTGUARD_DATA, else None."""
    named = os.environ.get("SOFTGUARD_DATA")
    return Path(named) if data_dir is None and named else data_dir
