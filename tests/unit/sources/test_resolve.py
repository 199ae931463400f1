import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from softguard.errors import SourceError
from softguard.sources import CatalogueEntry, cache_dir, is_cached, resolve, resolving
from tests.unit.sources.conftest import GGUF, ShelfFetcher, safetensors

FILE = "pypi:tiny==1.0/p/m.gguf"
FOLDER = "pypi:boxed==1.0/p/model/"


def left_in(cache: Path) -> list[str]:
    """Names of all files in the cache but locks."""
    return sorted(p.relative_to(cache).as_posix() for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock")


def pinned(monkeypatch: pytest.MonkeyPatch, **fields: object) -> CatalogueEntry:
    sha256 = hashlib.sha256(GGUF).hexdigest()
    known: dict[str, object] = {"pieces": (FILE,), "file": "m.gguf", "sha256": sha256, "size_bytes": len(GGUF)}
    rest = {"name": "wee", "licence": "MIT", "description": "", "role": "model", "chat_template": "from model"}
    entry = CatalogueEntry(**{**known, **rest, **fields})  # type: ignore[arg-type]
    monkeypatch.setattr(resolving, "find_entry", lambda name: entry if name == entry.name else None)
    return entry


def test_a_file_of_a_wheel_lies_under_its_hash(shelf: ShelfFetcher, cache: Path) -> None:
    steps: list[tuple[int, int]] = []
    source = resolve(FILE, fetcher=shelf, progress=lambda done, total: steps.append((done, total)))
    assert source.sha256 == hashlib.sha256(GGUF).hexdigest()
    assert source.path == cache / "sources" / source.sha256 / "m.gguf"
    assert source.path.read_bytes() == GGUF
    assert (source.kind, source.name, source.licence, source.chat_template) == ("gguf", "m", None, None)
    assert steps == [(1, 1)]
    assert not list(cache.rglob("*.partial"))


def test_a_folder_of_a_wheel_brings_model_files_only(shelf: ShelfFetcher) -> None:
    source = resolve(FOLDER, fetcher=shelf)
    found = sorted(p.relative_to(source.path).as_posix() for p in source.path.rglob("*") if p.is_file())
    assert source.kind == "folder"
    assert found == ["config.json", "model.safetensors", "sub/config.json"]


@pytest.mark.parametrize("reference", [FILE, FOLDER])
def test_the_second_call_needs_no_network(shelf: ShelfFetcher, reference: str) -> None:
    first = resolve(reference, fetcher=shelf)
    assert resolve(reference, fetcher=shelf, offline=True) == first
    assert resolve(reference, fetcher=shelf) == first
    assert len(shelf.calls) == 1


def test_offline_without_a_cache_says_so(shelf: ShelfFetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTGUARD_OFFLINE", "1")
    for reference in (FILE, "smollm2-135m"):
        with pytest.raises(SourceError, match="found nothing, and we are offline"):
            resolve(reference, fetcher=shelf)
    assert shelf.calls == []
    assert resolve(FILE, fetcher=shelf, offline=False).path.exists(), "the argument wins over the environment"


def test_no_network_leaves_nothing(shelf: ShelfFetcher, cache: Path) -> None:
    with pytest.raises(SourceError, match="no network"):
        resolve("pypi:absent==1.0/x.gguf", fetcher=shelf)
    assert left_in(cache) == []


def test_a_damaged_copy_is_fetched_anew_and_refused_offline(shelf: ShelfFetcher) -> None:
    source = resolve(FILE, fetcher=shelf)
    source.path.write_bytes(GGUF[:-1])
    with pytest.raises(SourceError, match="damaged copy"):
        resolve(FILE, fetcher=shelf, offline=True)
    assert resolve(FILE, fetcher=shelf).path.read_bytes() == GGUF


def test_a_damaged_folder_is_fetched_anew(shelf: ShelfFetcher) -> None:
    source = resolve(FOLDER, fetcher=shelf)
    (source.path / "config.json").unlink()
    assert resolve(FOLDER, fetcher=shelf) == source
    assert (source.path / "config.json").exists()


@pytest.mark.parametrize("member", ["../m.gguf", "p/../../m.gguf", "/etc/m.gguf", "C:/m.gguf", "p\\..\\m.gguf", "p//m.gguf"])
def test_a_member_that_escapes_is_refused_before_any_fetch(shelf: ShelfFetcher, member: str) -> None:
    with pytest.raises(SourceError, match="stays inside its archive"):
        resolve(f"pypi:tiny==1.0/{member}", fetcher=shelf)
    assert shelf.calls == []


def test_a_wheel_whose_folder_escapes_is_refused(cache: Path, tmp_path: Path) -> None:
    evil = ShelfFetcher({"evil==1": {"p/model.safetensors": safetensors(), "p/../../../../evil.json": b"{}"}})
    with pytest.raises(SourceError, match="stays inside its archive"):
        resolve("pypi:evil==1/p/", fetcher=evil)
    assert left_in(cache) == []
    assert not list(tmp_path.rglob("evil.json"))


@pytest.mark.parametrize("reference", ["pypi:tiny==1.0/p/other.gguf", "pypi:tiny==1.0/q/"])
def test_a_missing_member_names_what_is_there(shelf: ShelfFetcher, cache: Path, reference: str) -> None:
    with pytest.raises(SourceError, match=r"no such member \(it has p/m.gguf\)"):
        resolve(reference, fetcher=shelf)
    assert left_in(cache) == []


@pytest.mark.parametrize("bad", ["pypi:tiny/m.gguf", "pypi:tiny==1.0", "pypi:-d==1/x", "hf:", "hf:a/b/c", "hf:../x@main"])
def test_a_malformed_reference_is_refused(shelf: ShelfFetcher, bad: str) -> None:
    with pytest.raises(SourceError, match="correct the reference"):
        resolve(bad, fetcher=shelf)
    assert shelf.calls == []


def test_a_wheel_cut_short_is_refused(cache: Path) -> None:
    class Cut(ShelfFetcher):
        def wheel(self, requirement: str, folder: Path, progress: object) -> Path:
            path = super().wheel(requirement, folder, None)
            path.write_bytes(path.read_bytes()[:-30])
            return path

    with pytest.raises(SourceError, match="whole wheel"):
        resolve(FILE, fetcher=Cut({"tiny==1.0": {"p/m.gguf": GGUF}}))
    assert left_in(cache) == []


def test_a_member_that_is_no_gguf_is_refused(cache: Path) -> None:
    with pytest.raises(SourceError, match="begins with GGUF"):
        resolve(FILE, fetcher=ShelfFetcher({"tiny==1.0": {"p/m.gguf": b"\x80\x04pickle"}}))
    assert left_in(cache) == []


def test_a_short_name_is_checked_against_its_pins(shelf: ShelfFetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = pinned(monkeypatch)
    assert not is_cached(entry)
    source = resolve("wee", fetcher=shelf)
    assert (source.reference, source.name, source.licence, source.chat_template) == ("wee", "wee", "MIT", True)
    assert is_cached(entry)
    assert resolve("wee", fetcher=shelf, offline=True) == source


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"sha256": "0" * 64}, "expected sha256 0{64}"), ({"size_bytes": len(GGUF) + 1}, "expected 65 bytes in m.gguf; found 64")],
)
def test_a_wrong_hash_or_size_is_refused(
    shelf: ShelfFetcher, cache: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, object], message: str
) -> None:
    entry = pinned(monkeypatch, **fields)
    with pytest.raises(SourceError, match=message):
        resolve("wee", fetcher=shelf)
    assert left_in(cache) == []
    assert not is_cached(entry)


def test_pieces_are_joined_in_order(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    halves = ShelfFetcher({"a==1": {"p.00": GGUF[:40]}, "b==1": {"p.01": GGUF[40:]}})
    pinned(monkeypatch, pieces=("pypi:a==1/p.00", "pypi:b==1/p.01"))
    assert resolve("wee", fetcher=halves).path.read_bytes() == GGUF
    shutil.rmtree(cache)
    pinned(monkeypatch, pieces=("pypi:b==1/p.01", "pypi:a==1/p.00"))
    with pytest.raises(SourceError, match="sha256"):
        resolve("wee", fetcher=halves)


def test_a_missing_piece_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned(monkeypatch, pieces=("pypi:a==1/p.00", "pypi:b==1/p.01"))
    with pytest.raises(SourceError, match="no network"):
        resolve("wee", fetcher=ShelfFetcher({"a==1": {"p.00": GGUF[:40]}}))
    assert left_in(cache) == []


def test_an_interrupt_leaves_nothing(cache: Path) -> None:
    class Interrupted(ShelfFetcher):
        def wheel(self, requirement: str, folder: Path, progress: object) -> Path:
            (folder / "half.whl").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resolve(FILE, fetcher=Interrupted({}))
    assert left_in(cache) == []


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_process_leaves_no_final_path_and_the_next_starts_cleanly(shelf: ShelfFetcher, cache: Path) -> None:
    program = f"""
        import time
        from softguard.sources import resolve
        class Stuck:
            def wheel(self, requirement, folder, progress):
                (folder / "half.whl").write_bytes(b"half")
                print("fetching", flush=True)
                time.sleep(60)
        resolve({FILE!r}, fetcher=Stuck())
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "fetching\n"
        process.send_signal(signal.SIGKILL)
    assert [Path(name).name for name in left_in(cache)] == ["half.whl"]
    assert all(".partial/" in name for name in left_in(cache))
    assert resolve(FILE, fetcher=shelf).path.read_bytes() == GGUF
    assert not list(cache.rglob("*.partial"))


def test_a_cache_that_cannot_be_written_says_so(shelf: ShelfFetcher, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(SourceError, match="SOFTGUARD_CACHE"):
        resolve(FILE, fetcher=shelf)


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(SourceError, match="did you mean 'smollm2-135m'"):
        resolve("smolm2-135")
    with pytest.raises(SourceError, match="write 'hf:org/model'"):
        resolve("org/model")
    with pytest.raises(SourceError, match=r"org/name@revision"):
        resolve("./absent.gguf")


def test_the_hub_is_asked_once_with_the_revision(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors())
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Card")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ x }}"}))
    hub = ShelfFetcher({}, {"org/m": tmp_path})
    source = resolve("hf:org/m@abc", fetcher=hub, offline=True)
    assert (source.name, source.licence, source.chat_template, source.kind) == ("m", "apache-2.0", True, "folder")
    resolve("hf:org/m", fetcher=hub)
    assert hub.calls == ["org/m@abc offline=True", "org/m@main offline=False"]


def test_cache_dir_reads_the_environment(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert cache_dir() == cache
    monkeypatch.delenv("SOFTGUARD_CACHE")
    assert "softguard" in cache_dir().parts[-1].lower()
