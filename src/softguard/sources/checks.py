"""Is this the file that was meant, and is it whole? Hashes, sizes, and the headers of the two formats that we load."""

import fnmatch
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from softguard.errors import SourceError

MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "*.tiktoken")
"""Patterns of the files that make up a model folder. All else, pickled weights and code above all, is left alone."""

PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def file_sha256(path: Path) -> str:
    """Return the hash of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_model_file(name: str) -> bool:
    """Return whether a file, named relative to its folder with `/`, belongs to a model; hidden ones do not."""
    return not name.startswith(".") and "/." not in name and any(fnmatch.fnmatchcase(name, p) for p in MODEL_FILES)


def model_files(folder: Path, members: Sequence[str] = ()) -> list[tuple[str, Path]]:
    """Return (relative name, path), sorted by name, of a folder's model files, or of a program's `members` that are there."""
    if members:
        return sorted((name, folder / name) for name in members if (folder / name).is_file())
    named = ((p.relative_to(folder).as_posix(), p) for p in folder.rglob("*") if p.is_file())
    return sorted((name, path) for name, path in named if is_model_file(name))


def folder_sha256(folder: Path, members: Sequence[str] = ()) -> str:
    """Return the hash of the lines `<sha256>  <relative name>`, sorted by name, of a folder's model files.

    The lines are those that `sha256sum` prints, so anyone can check a pin by hand.
    """
    lines = "".join(f"{file_sha256(path)}  {name}\n" for name, path in model_files(folder, members))
    return hashlib.sha256(lines.encode()).hexdigest()


def size_bytes(path: Path, members: Sequence[str] = ()) -> int:
    """Return the size of a file, or of a folder's model files (or a program's members)."""
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for _, p in model_files(path, members))


def check_gguf(path: Path) -> None:
    """Check that a file is GGUF.

    Raises:
        SourceError: it does not begin as one.
    """
    with path.open("rb") as stream:
        magic = stream.read(4)
    if magic != b"GGUF":
        raise SourceError("a file that begins with GGUF", f"{magic!r} in {path}", "fetch the file again")


def check_folder(folder: Path) -> None:
    """Check that a folder holds whole safetensors weights: every shard that its index names, none cut short.

    Raises:
        SourceError: no weights, only pickled ones, a missing shard or a truncated file.
    """
    names = {name for name, _ in model_files(folder)}
    if not any(name.endswith(".safetensors") for name in names):
        _refuse_without_weights(folder)
    for index in sorted(n for n in names if n.endswith(".safetensors.index.json")):
        parent = (folder / index).parent
        for shard in sorted(_shards(folder / index)):
            if not (parent / shard).is_file():
                raise SourceError(f"every file that {index} names", f"no {shard} in {parent}", "fetch the model again")
    for name in sorted(n for n in names if n.endswith(".safetensors")):
        _check_safetensors(folder / name)


def licence_of(folder: Path) -> str | None:
    """Return the licence that the model card (`README.md`) of a folder states in its header, if any."""
    try:
        card = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    header = re.match(r"---\s*\n(.*?)\n---", card, re.DOTALL)
    found = re.search(r"^license:[ \t]*(\S.*)$", header.group(1), re.MULTILINE) if header else None
    return found.group(1).strip().strip("\"'") if found else None


def has_chat_template(folder: Path) -> bool:
    """Return whether a folder's tokenizer brings a chat template."""
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and bool(config.get("chat_template"))


def _refuse_without_weights(folder: Path) -> None:
    expected = f"*.safetensors in {folder}"
    files = sorted(p.name for p in folder.rglob("*") if p.is_file())
    pickled = [name for name in files if name.endswith(PICKLED)]
    if pickled:
        todo = "convert the weights with save_pretrained on a machine that trusts them: we load no pickles"
        raise SourceError(expected, f"only pickled weights ({pickled[0]})", todo)
    ggufs = [name for name in files if name.endswith(".gguf")]
    if ggufs:
        raise SourceError(expected, ggufs[0], "give the path of the .gguf file itself")
    raise SourceError(expected, "none (pickled weights are never fetched)", "choose a model that has such weights")


def _shards(index: Path) -> set[str]:
    try:
        return {str(shard) for shard in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise SourceError("a weight_map in a safetensors index", f"{error!r} in {index}", "fetch it again") from error


def _check_safetensors(path: Path) -> None:
    """Check a file's size against its own header: 8 bytes of length, the header, then data up to the last offset."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length + 8 > size:
            raise SourceError(f"a safetensors header of {length} bytes", f"a file of {size}: {path}", "fetch it again")
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        except (ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
            raise SourceError("a safetensors header", f"{error!r} in {path}", "fetch the file again") from error
    whole = 8 + length + max(ends, default=0)
    if size != whole:
        raise SourceError(f"{whole} bytes, as its header says", f"{size} bytes: {path} is cut short", "fetch it again")
