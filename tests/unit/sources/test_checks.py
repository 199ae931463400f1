import json
import subprocess
from pathlib import Path

import pytest

from softguard.errors import SourceError
from softguard.sources import checks, resolve
from tests.unit.sources.conftest import GGUF, safetensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "model.safetensors").write_bytes(safetensors())
    (path / "config.json").write_text("{}")
    return path


def test_a_local_folder_resolves(folder: Path) -> None:
    source = resolve(str(folder), offline=True)
    assert (source.path, source.kind, source.name, source.licence) == (folder, "folder", "model", None)
    assert source.chat_template is False


def test_a_folders_hash_ignores_what_is_no_model_file_and_sees_all_else(folder: Path) -> None:
    before = checks.folder_sha256(folder)
    (folder / "README.md").write_text("card")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.json").write_text("{}")
    assert checks.folder_sha256(folder) == before
    (folder / "config.json").rename(folder / "other.json")
    assert checks.folder_sha256(folder) != before


def test_a_folders_hash_is_what_sha256sum_gives(folder: Path) -> None:
    shell = "sha256sum config.json model.safetensors | sha256sum"
    by_hand = subprocess.run(shell, shell=True, cwd=folder, capture_output=True, text=True)
    if by_hand.returncode or not by_hand.stdout:
        pytest.skip("no sha256sum here")
    assert checks.folder_sha256(folder) == by_hand.stdout.split()[0]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_a_folder_with_pickles_only_is_refused(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(SourceError, match=f"only pickled weights \\({name}\\)"):
        resolve(str(folder))


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(SourceError, match="found none"):
        resolve(str(folder))
    (folder / "m.gguf").write_bytes(GGUF)
    with pytest.raises(SourceError, match=r"give the path of the \.gguf file itself"):
        resolve(str(folder))


@pytest.mark.parametrize("keep", [4, 20, -1])
def test_truncated_safetensors_are_refused(folder: Path, keep: int) -> None:
    (folder / "model.safetensors").write_bytes(safetensors()[:keep])
    with pytest.raises(SourceError, match=r"safetensors header|cut short"):
        resolve(str(folder))


def test_a_header_that_is_not_one_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((4).to_bytes(8, "little") + b"nope")
    with pytest.raises(SourceError, match="safetensors header"):
        resolve(str(folder))


def test_a_missing_shard_is_refused(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SourceError, match=r"no model-2\.safetensors"):
        resolve(str(folder))


def test_a_local_gguf_resolves_and_others_do_not(tmp_path: Path) -> None:
    good, empty, other = tmp_path / "good.gguf", tmp_path / "empty.gguf", tmp_path / "model.bin"
    good.write_bytes(GGUF)
    empty.touch()
    other.touch()
    assert resolve(str(good)).kind == "gguf"
    with pytest.raises(SourceError, match="begins with GGUF"):
        resolve(str(empty))
    with pytest.raises(SourceError, match="convert the weights"):
        resolve(str(other))


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ('---\ntags: [x]\nlicense: "gemma"\nlicense_link: y\n---', "gemma"),
        ("---\nlicense:\n- mit\n---\n", None),
        ("# Card\nlicense: mit", None),
    ],
)
def test_the_licence_is_read_from_the_cards_header_only(folder: Path, card: str, licence: str | None) -> None:
    (folder / "README.md").write_text(card)
    assert checks.licence_of(folder) == licence


def test_a_chat_template_is_found_in_either_place(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("not json")
    assert not checks.has_chat_template(folder)
    (folder / "chat_template.jinja").write_text("{{ x }}")
    assert checks.has_chat_template(folder)
