"""Rows in quantised types."""

import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType as Type

from softguard.errors import CompatibilityError
from softguard.export.gguf_file import GGUFFile
from softguard.export.quantised import as_stored, decode, encode

ROWS = np.random.default_rng(0).normal(0, 2, (3, 512)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (Type.F32, 0.0),
        (Type.F16, 1e-3),
        (Type.BF16, 8e-3),
        (Type.Q8_0, 6e-3),
        (Type.Q6_K, 0.04),
        (Type.Q5_1, 0.05),
        (Type.Q4_0, 0.13),
        (Type.Q4_1, 0.1),
    ],
)
def test_what_is_stored_is_near(kind, error):
    assert np.abs(as_stored(ROWS, kind) - ROWS).max() <= error * np.abs(ROWS).max()
    assert np.array_equal(encode(ROWS, kind)[1], encode(ROWS[1:2], kind)[0])  # rows stand alone


def test_q6_k_of_nothing_is_nothing():
    assert not as_stored(np.zeros((1, 256), np.float32), Type.Q6_K).any()


def test_a_type_that_we_cannot_write():
    with pytest.raises(CompatibilityError, match="IQ2_XS"):
        encode(ROWS, Type.IQ2_XS)


def test_rows_of_a_file(tiny_gguf):
    file = GGUFFile(tiny_gguf)
    whole = decode(file, "token_embd.weight")
    assert np.array_equal(decode(file, "token_embd.weight", np.array([5, 2])), whole[[5, 2]])
