"""Prompt sets by name."""

import os
from collections.abc import Callable
from pathlib import Path

from softguard.data.prompt import PromptRow
from softguard.errors import DataError
from softguard.registry import Registry

Loader = Callable[[Path | None], list[PromptRow]]
PROMPT_SETS: Registry[Loader] = Registry("prompt set", "softguard.prompt_sets")


def load_prompts(name: str, data_dir: Path | None = None) -> list[PromptRow]:
    """Return the rows of a set by name.

    Args:
        name: `softguard` (ours) or a public set.
        data_dir: the folder of public sets; None takes SOFTGUARD_DATA.

    Raises:
        ConfigError: no such set.
        DataError: its file is absent or not what it has to be.
    """
    if data_dir is None and os.environ.get("SOFTGUARD_DATA"):
        data_dir = Path(os.environ["SOFTGUARD_DATA"])
    return PROMPT_SETS.get(name)(data_dir)


def public_file(data_dir: Path | None, *parts: str) -> Path:
    """Return the path of a public set's file.

    Raises:
        DataError: no folder was named, or the file is not in it.
    """
    if data_dir is None:
        raise DataError(f"a folder with {'/'.join(parts)}", "none named", "give --data-dir or set SOFTGUARD_DATA")
    path = data_dir.joinpath(*parts)
    if not path.is_file():
        raise DataError(f"{'/'.join(parts)} in {data_dir}", "no such file", "download the set into that folder")
    return path
