"""GGUF files are read within their bounds and written as they were."""

import struct

import gguf
import numpy as np
import pytest

from softguard.errors import SourceError
from softguard.export.gguf_file import GGUFFile, NewTensor, Value, write_gguf


def copy_of(file, path):
    tensors = [NewTensor(t.name, t.shape, t.type, (file.data(t.name),)) for t in file.tensors.values()]
    write_gguf(path, file.metadata, tensors, file.alignment)
    return path


def test_a_copy_is_what_the_gguf_package_reads(tiny_gguf, tmp_path):
    ours = gguf.GGUFReader(copy_of(GGUFFile(tiny_gguf), tmp_path / "copy.gguf"))
    theirs = gguf.GGUFReader(tiny_gguf)
    keys = [k for k in theirs.fields if not k.startswith("GGUF.")]
    assert [k for k in ours.fields if not k.startswith("GGUF.")] == keys
    assert all(ours.fields[k].contents() == theirs.fields[k].contents() for k in keys)
    assert [t.name for t in ours.tensors] == [t.name for t in theirs.tensors]
    assert all(np.array_equal(a.data, b.data) for a, b in zip(ours.tensors, theirs.tensors, strict=True))
    assert (tmp_path / "copy.gguf").read_bytes() == tiny_gguf.read_bytes()


def test_truncated_anywhere(tiny_gguf, tmp_path):
    whole = tiny_gguf.read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [*range(0, 400, 7), *range(400, len(whole) - 32, 997), len(whole) - 33]:
        cut.write_bytes(whole[:length])
        with pytest.raises(SourceError):
            GGUFFile(cut)


def test_flipped_bytes_raise_our_error_or_none(tiny_gguf, tmp_path):
    whole = tiny_gguf.read_bytes()
    rng = np.random.default_rng(0)
    raised = 0
    for _ in range(300):
        hostile = bytearray(whole)
        for at in rng.integers(0, 8000, 3):
            hostile[at] = int(rng.integers(256))
        path = tmp_path / "hostile.gguf"
        path.write_bytes(hostile)
        try:
            GGUFFile(path)
        except SourceError:
            raised += 1
    assert raised > 50


@pytest.mark.parametrize(
    ("at", "form", "number"), [(4, "<I", 1), (4, "<I", 0x03000000), (8, "<Q", 2**60), (16, "<Q", 2**63), (24, "<Q", 2**62)]
)
def test_counts_beyond_the_file(tiny_gguf, tmp_path, at, form, number):
    hostile = bytearray(tiny_gguf.read_bytes())
    struct.pack_into(form, hostile, at, number)
    (tmp_path / "hostile.gguf").write_bytes(hostile)
    with pytest.raises(SourceError, match=r"hostile\.gguf"):
        GGUFFile(tmp_path / "hostile.gguf")


def test_values_come_back():
    kind = gguf.GGUFValueType
    assert Value.text("Grüße").scalar == "Grüße"
    assert Value.number(kind.BOOL, False).scalar is False
    assert Value.array(kind.STRING, ["a", "", "é"]).items == ["a", "", "é"]
    assert Value.array(kind.INT32, [1, -2]).items == [1, -2]
