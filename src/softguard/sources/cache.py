"""Where fetched files are kept, and how they get there: whole, under the hash of their content, or not at all.

    sources/<sha256>/<name>          a file or a folder, moved here by one `os.replace` after it was checked
    sources/<key>.partial/           work in progress; whoever holds the lock of the key clears it first
    sources/references/<key>.json    what an unpinned reference turned out to be

Must not import anything that fetches.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from softguard.errors import SourceError


def cache_dir() -> Path:
    """Return the cache's folder: `SOFTGUARD_CACHE`, else the user's cache folder of this platform."""
    chosen = os.environ.get("SOFTGUARD_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else user_cache_path("softguard", appauthor=False)


def is_offline(argument: bool | None) -> bool:
    """Return whether the network is off limits: the argument, else `SOFTGUARD_OFFLINE`."""
    if argument is not None:
        return argument
    return os.environ.get("SOFTGUARD_OFFLINE", "").strip().lower() not in ("", "0", "false", "no", "off")


def content_folder(sha256: str) -> Path:
    """Return the folder that holds the content of this hash, once it is there."""
    return cache_dir() / "sources" / sha256


def reference_key(reference: str) -> str:
    """Return the name under which work on a reference is filed."""
    return hashlib.sha256(reference.encode()).hexdigest()


@contextmanager
def working_folder(key: str) -> Iterator[Path]:
    """Lend an empty folder to one process at a time; what is left in it afterwards is deleted.

    The system frees the lock of a killed process, so whatever lies in the folder when we get it is nobody's.

    Raises:
        SourceError: the cache cannot be written, or the disk is full.
    """
    root = cache_dir() / "sources"
    work = root / f"{key}.partial"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f"{key}.lock"):
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            try:
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except SourceError:
        raise
    except OSError as error:
        todo = "free some disk space, or set SOFTGUARD_CACHE to a folder that can be written"
        raise SourceError(f"a cache that can be written at {root}", str(error), todo) from error


def publish(content: Path, sha256: str) -> None:
    """Move checked content to its final place in one step; a copy that is already there was damaged, and goes."""
    final = content_folder(sha256) / content.name
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.is_dir():
        shutil.rmtree(final)
    os.replace(content, final)


def remember(reference: str, sha256: str, name: str, work: Path) -> None:
    """Write down what an unpinned reference turned out to be."""
    receipt = _receipt(reference)
    receipt.parent.mkdir(parents=True, exist_ok=True)
    draft = work / "receipt.json"
    draft.write_text(json.dumps({"reference": reference, "sha256": sha256, "name": name}), encoding="utf-8")
    os.replace(draft, receipt)


def recall(reference: str) -> tuple[str, Path] | None:
    """Return the hash and the place of an unpinned reference, if it was fetched before."""
    try:
        receipt = json.loads(_receipt(reference).read_text(encoding="utf-8"))
        sha256 = str(receipt["sha256"])
        place = content_folder(sha256) / str(receipt["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (sha256, place) if place.exists() else None


def _receipt(reference: str) -> Path:
    return cache_dir() / "sources" / "references" / f"{reference_key(reference)}.json"
