"""Tiny wheels and a fetcher that hands them out: no network, no mocks."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from softguard.core.protocols import Progress
from softguard.errors import SourceError

GGUF = b"GGUF" + bytes(range(60))


def safetensors(data: bytes = b"\0" * 16) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [len(data) // 4], "data_offsets": [0, len(data)]}}).encode()
    return len(header).to_bytes(8, "little") + header + data


def write_wheel(path: Path, members: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


class ShelfFetcher:
    """Hands out wheels and snapshots from a shelf; what is not on it is "no network"."""

    def __init__(self, wheels: Mapping[str, Mapping[str, bytes]], snapshots: Mapping[str, Path] | None = None) -> None:
        self.wheels = wheels
        self.snapshots = snapshots or {}
        self.calls: list[str] = []

    def wheel(self, requirement: str, folder: Path, progress: Progress | None) -> Path:
        self.calls.append(requirement)
        if requirement not in self.wheels:
            raise SourceError(f"pip to download {requirement}", "no network", "connect")
        if progress is not None:
            progress(1, 1)
        return write_wheel(folder / "tiny.whl", self.wheels[requirement])

    def snapshot(self, repository: str, revision: str, offline: bool) -> Path:
        self.calls.append(f"{repository}@{revision} offline={offline}")
        if repository not in self.snapshots:
            raise SourceError(f"hf:{repository}@{revision}", "no network", "connect")
        return self.snapshots[repository]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOFTGUARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SOFTGUARD_OFFLINE", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def shelf() -> ShelfFetcher:
    folder = {
        "p/model/config.json": b"{}",
        "p/model/sub/config.json": b"{}",
        "p/model/model.safetensors": safetensors(),
        "p/model/pytorch_model.bin": b"pickle",
        "p/model/run_me.py": b"raise SystemExit",
        "p/secret.txt": b"not asked for",
    }
    return ShelfFetcher({"tiny==1.0": {"p/m.gguf": GGUF}, "boxed==1.0": folder})
