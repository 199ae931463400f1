"""A question of a public set with all that grading its answer takes, and the fixed subsets of such sets.

A question is named by a hash of its content: subsets and results mean the same questions whatever the order of a file, and where
rows of it are missing. Must not import anything that reads prompts.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from softguard.errors import DataError


@dataclass(frozen=True)
class Document:
    """A question; `fields` are named and typed as in the data set that lm-evaluation-harness loads for it."""

    id: str
    fields: Mapping[str, Any]
    topic: str = ""


def documents(rows: Iterable[Document]) -> list[Document]:
    """Return the rows without duplicates, in their order."""
    return list({row.id: row for row in rows}.values())


def document(fields: Mapping[str, Any], topic: str = "", unnamed: Sequence[str] = ()) -> Document:
    """Return a question named by its content, but for the fields in `unnamed`.

    Raises:
        ValueError: a field that is no JSON, or half a surrogate pair in a text.
    """
    named = {name: value for name, value in fields.items() if name not in unnamed}
    content = json.dumps(named, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    return Document(hashlib.sha256(content).hexdigest()[:16], dict(fields), topic)


def subset_ids(name: str) -> list[str]:
    """Return the ids of a fixed subset, as the package publishes them in `data/subsets`: the same for everybody, for ever."""
    text = files("softguard.data").joinpath("subsets", f"{name}.txt").read_text(encoding="utf-8")
    return [line for line in text.split("\n") if line and not line.startswith("#")]


def subset(name: str, rows: Sequence[Document]) -> list[Document]:
    """Return the questions of a fixed subset, in its order.

    Raises:
        DataError: some are not among `rows`: another subset would be another measurement.
    """
    by_id = {row.id: row for row in rows}
    ids = subset_ids(name)
    if missing := [i for i in ids if i not in by_id]:
        found = f"{len(missing)} of them missing among {len(rows)}, {missing[0]} first"
        raise DataError(f"the {len(ids)} questions of {name}", found, "take the set's file from its home, whole and unchanged")
    return [by_id[i] for i in ids]
