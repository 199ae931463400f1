"""Rows of a quantised table: decoded, and new ones encoded in a table's own type, so that its rows stay the bytes that they are.

GGUF quantises each row by itself, so rows can be appended to a table and one can be replaced without touching the others.
"""

import numpy as np
from gguf.constants import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray

from softguard.errors import CompatibilityError
from softguard.export.gguf_file import GGUFFile

Floats = NDArray[np.float32]
PRECISE = (Type.F32, Type.F16, Type.BF16, Type.Q8_0)
"""Types in which a trained row keeps what it learnt: at most 1/254 of its block's largest number is lost, which is what runtimes
lose of every activation that meets an 8-bit product."""
_SUB, _BLOCK = 16, 256


def encodable(kind: Type) -> bool:
    """Return whether `encode` knows a type."""
    return kind in (*PRECISE, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q6_K)


def decode(file: GGUFFile, name: str, rows: slice | NDArray[np.int64] = slice(None)) -> Floats:
    """Return rows of a tensor as float32, N x D.

    Raises:
        CompatibilityError: a type that the gguf package cannot decode.
    """
    tensor = file.tensors[name]
    try:
        return decoded(file.data(name)[rows], tensor.type)
    except NotImplementedError as error:
        todo = "convert the base to another quantisation"
        raise CompatibilityError(f"a type of {name} that can be decoded", tensor.type.name, todo) from error


def encode(rows: Floats, kind: Type) -> NDArray[np.uint8]:
    """Return rows in a type's bytes, N x bytes of a row.

    Raises:
        CompatibilityError: a type that we cannot write.
    """
    if not encodable(kind):
        raise CompatibilityError("a type that rows can be written in", kind.name, "convert the base to another quantisation")
    rows = np.ascontiguousarray(rows, np.float32)
    raw = _q6_k(rows) if kind == Type.Q6_K else quantize(rows, kind)
    return np.ascontiguousarray(raw).view(np.uint8).reshape(len(rows), -1)


def as_stored(rows: Floats, kind: Type) -> Floats:
    """Return rows as they come back from a type: what a runtime will compute with."""
    return decoded(encode(rows, kind), kind)


def decoded(raw: NDArray[np.uint8], kind: Type) -> Floats:
    """Return the numbers of rows in a type's bytes."""
    raw = np.ascontiguousarray(raw)
    if kind in (Type.F32, Type.F16):
        return raw.view(np.float32 if kind == Type.F32 else np.float16).astype(np.float32)
    found: Floats = dequantize(raw, kind)
    return found


def _q6_k(rows: Floats) -> NDArray[np.uint8]:
    """Return rows in Q6_K: 256 numbers are d * scale_j * (q - 32), 16 scales of 8 bits, q of 6 bits.

    The scales are those of each sub-block's largest number, without the search that llama.cpp makes for them: coarser, and good
    enough for rows of a head that no precision is asked of.

    References:
        block_q6_K, https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h
    """
    if rows.shape[1] % _BLOCK:
        raise CompatibilityError(
            f"rows of a multiple of {_BLOCK}", str(rows.shape[1]), "convert the base to another quantisation"
        )
    x = rows.reshape(-1, _BLOCK // _SUB, _SUB)
    wanted = np.abs(x).max(2) / 31.0
    d = (wanted.max(1) / 127.0).astype(np.float16)
    unit = d.astype(np.float32)[:, None]
    scales = np.where(unit > 0, np.ceil(np.divide(wanted, unit, out=np.zeros_like(wanted), where=unit > 0)), 0).clip(0, 127)
    step = (unit * scales)[:, :, None]
    q = np.rint(np.divide(x, step, out=np.zeros_like(x), where=step > 0)).clip(-32, 31) + 32
    q = q.astype(np.uint8).reshape(-1, 2, 4, 32)  # two halves of 128; in each, four runs of 32
    low, high = q & 15, q >> 4
    ql = np.concatenate([low[:, :, 0] | low[:, :, 2] << 4, low[:, :, 1] | low[:, :, 3] << 4], 2)
    qh = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    blocks = [ql.reshape(len(q), -1), qh.reshape(len(q), -1), scales.astype(np.int8).view(np.uint8), d[:, None].view(np.uint8)]
    return np.concatenate(blocks, 1).astype(np.uint8).reshape(len(rows), -1)
