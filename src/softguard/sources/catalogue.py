"""The short names that ship with the package: a pinned hash, a size and a licence for each."""

import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Literal

from softguard.errors import SourceError
from softguard.sources.references import parse_wheel

Role = Literal["model", "guard-backbone", "runtime", "data"]


@dataclass(frozen=True)
class CatalogueEntry:
    """One pinned source.

    Attributes:
        name: the short name.
        pieces: `pypi:` references, joined in order; nearly always one.
        file: name of the file or folder in the cache.
        sha256: of the joined file, or of the folder (see `checks.folder_sha256`).
        size_bytes: of the joined file, or of the folder's model files together.
        licence: of the model; the wrapping package may have its own.
        description: one line.
        role: what it is good for.
        default: whether it is the one used for its role where nobody chose.
        chat_template: "from model", or None where it has none.
        hub: its name on the Hugging Face hub, for cards; empty where it has none.
        members: of the folder of a program or of data: the files that are taken, and all that are.
    """

    name: str
    pieces: tuple[str, ...]
    file: str
    sha256: str
    size_bytes: int
    licence: str
    description: str
    role: Role
    default: bool = False
    chat_template: str | None = None
    members: tuple[str, ...] = ()
    hub: str = ""

    @property
    def is_folder(self) -> bool:
        """Whether the entry is a folder rather than a file."""
        return self.pieces[0].endswith("/")


@cache
def _entries() -> tuple[CatalogueEntry, ...]:
    text = files("softguard.sources").joinpath("catalogue.toml").read_text(encoding="utf-8")
    return tuple(_entry(name, fields) for name, fields in tomllib.loads(text).items())


def _entry(name: str, fields: dict[str, object]) -> CatalogueEntry:
    source = fields.pop("source")
    pieces = tuple(source) if isinstance(source, list) else (str(source),)
    file = fields.pop("file", None) or parse_wheel(pieces[0]).name
    members: object = fields.pop("members", ())
    assert isinstance(members, list | tuple)
    return CatalogueEntry(name=name, pieces=pieces, file=file, members=tuple(members), **fields)  # type: ignore[arg-type]


def list_catalogue() -> list[CatalogueEntry]:
    """Return every entry, in the catalogue's order."""
    return list(_entries())


def find_entry(reference: str) -> CatalogueEntry | None:
    """Return the entry of a short name, or the one whose only piece is this reference: pins hold for both."""
    for entry in _entries():
        if reference == entry.name or entry.pieces == (reference,):
            return entry
    return None


def unknown_name(name: str) -> SourceError:
    """Return the error for something that is neither a short name nor a path, with the nearest name."""
    names = [entry.name for entry in _entries()]
    near = get_close_matches(name, names, n=1)
    if near:
        todo = f"did you mean {near[0]!r}?"
    elif name.count("/") == 1 and name[0] not in "./~":
        todo = f"for the Hugging Face hub write 'hf:{name}', for a local folder check that it exists"
    else:
        todo = "choose a short name, hf:org/name@revision, pypi:package==version/member, or a path that exists"
    return SourceError(f"a folder, a .gguf file or a short name ({', '.join(names)})", repr(name), todo)
