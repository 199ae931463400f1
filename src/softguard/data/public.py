"""What the loaders of public sets share: where a file is, how it is read, how rows are made of it.

A loader is one file of this room: it states a `PublicFile` and picks prompts from its rows. The folder of `--data-dir` or
SOFTGUARD_DATA comes first. What is not there is fetched from Hugging Face or GitHub where we know the file to the letter;
else the error names its home. Rows about minors are dropped, whatever the request, but for the sets of decision 0029.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from softguard.data.fetching import RemoteFile
from softguard.data.prompt import Label, PromptRow, Split, mentions_minors
from softguard.errors import DataError, MissingDataError

T = TypeVar("T")


@dataclass(frozen=True)
class PublicFile:
    """A file of a public set.

    Attributes:
        path: where it stands in the folder of public sets.
        form: what it holds, for messages.
        home: the page that it comes from.
        remote: the same file over the network, None where we know of none in this form.
    """

    path: str
    form: str
    home: str
    remote: RemoteFile | None = None


class Picked(NamedTuple):
    """A prompt of a row with its topic."""

    prompt: str
    topic: str = ""


def read_prompts(file: PublicFile, data_dir: Path | None, pick: Callable[[Any], Iterable[Picked]]) -> list[Picked]:
    """Return what `pick` finds in the rows of a file: dicts, or the lines of a `.txt`.

    Raises:
        DataError: the file is nowhere, unreadable, not of its form, or without prompts.
    """

    def checked(row: Any) -> list[Picked]:
        picked = list(pick(row))
        for prompt, topic in picked:
            (prompt + topic).encode()  # raises on what is no text, half a surrogate pair included
        return picked

    return read_rows(file, data_dir, checked)


def read_rows(file: PublicFile, data_dir: Path | None, pick: Callable[[Any], Iterable[T]]) -> list[T]:
    """Return what `pick` makes of the rows of a file: dicts, or the lines of a `.txt`.

    Raises:
        DataError: the file is nowhere (`MissingDataError`), unreadable, not of its form, or has nothing to pick.
    """
    path = find_file(file, data_dir)
    picked: list[T] = []
    good = 0
    try:
        for row in _rows(path):
            picked += pick(row)
            good += 1
        if not picked:
            raise ValueError("no prompt")
    except MissingDataError:
        raise
    except (
        OSError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
        csv.Error,
        zlib.error,
    ) as error:
        found = f"{type(error).__name__} ({error}) in {path} after {good} good rows"
        raise DataError(file.form, found, f"take the file from {file.home}") from error
    return picked


def prompt_rows(
    source: str, label: Label, picked: Iterable[Picked], split: Split = "test", *, keep_minors: bool = False
) -> list[PromptRow]:
    """Return rows without duplicates or those about minors; `keep_minors` keeps these, for sets that a program grades."""
    seen: dict[str, PromptRow] = {}
    for prompt, topic in picked:
        text = prompt.strip()
        if text and text not in seen and (keep_minors or not mentions_minors(f"{topic}: {text}")):
            seen[text] = PromptRow(f"{source}-{label}-{len(seen)}", text, label, source, topic=topic, split=split)
    return list(seen.values())


def find_file(file: PublicFile, data_dir: Path | None) -> Path:
    """Return the path of a public set's file: in the folder, else fetched.

    Raises:
        DataError: the folder does not exist.
        MissingDataError: the file is in neither place.
    """
    found = "no folder of public sets named"
    if data_dir is not None:
        if not data_dir.is_dir():
            raise DataError("a folder of public sets", f"no such folder: {data_dir}", "check --data-dir or SOFTGUARD_DATA")
        if (data_dir / file.path).is_file():
            return data_dir / file.path
        found = f"none in {data_dir}"
    if file.remote is not None:
        try:
            return file.remote.fetch()
        except OSError as error:
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            found += f", and {file.remote.address} could not be fetched ({reason})"
    todo = f"download it, save it as FOLDER/{file.path}, and name FOLDER with --data-dir or SOFTGUARD_DATA"
    raise MissingDataError(f"{file.path}, {file.form}, from {file.home}", found, todo)


def _rows(path: Path) -> Iterator[Any]:
    if path.suffix == ".parquet":
        yield from _parquet(path)
        return
    packed = path.suffix == ".gz"
    text = (gzip.decompress(path.read_bytes()) if packed else path.read_bytes()).decode("utf-8-sig")
    path = path.with_suffix("") if packed else path
    if path.suffix == ".csv":
        yield from csv.DictReader(io.StringIO(text), strict=True)
    elif path.suffix == ".json":
        whole = json.loads(text)
        yield from whole if isinstance(whole, list) else [whole]
    else:
        lines = (line for line in text.split("\n") if line.strip())
        yield from lines if path.suffix == ".txt" else map(json.loads, lines)


def _parquet(path: Path) -> list[dict[str, Any]]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingDataError("pyarrow, to read Parquet", "not installed", "run `pip install pyarrow`") from error
    rows: list[dict[str, Any]] = ParquetFile(path).read().to_pylist()
    return rows
