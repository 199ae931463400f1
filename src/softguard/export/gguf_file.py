"""GGUF files as they lie on disk: read within their bounds, written with what was not changed copied byte for byte.

The one idea: a value that nobody changes stays the bytes that it was, so a new file differs from its source only where we say.
Every count and length of the header is checked against the bytes that are left before anything is read or allocated: the file
may be truncated or hostile. Numbers of tensors are no business of this file (`quantised.py`).

References:
    The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from softguard.errors import SourceError

VERSION = 3
ALIGNMENT_KEY = "general.alignment"
_SIZES = {
    GGUFValueType.UINT8: 1,
    GGUFValueType.INT8: 1,
    GGUFValueType.BOOL: 1,
    GGUFValueType.UINT16: 2,
    GGUFValueType.INT16: 2,
    GGUFValueType.UINT32: 4,
    GGUFValueType.INT32: 4,
    GGUFValueType.FLOAT32: 4,
    GGUFValueType.UINT64: 8,
    GGUFValueType.INT64: 8,
    GGUFValueType.FLOAT64: 8,
}
_FORMATS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}
_MOST_DIMENSIONS = 4
_COPIED_AT_ONCE = 1 << 22
Scalar = int | float | bool | str


@dataclass(frozen=True)
class Value:
    """A metadata value: its type and its bytes, which are decoded only where someone asks."""

    type: GGUFValueType
    raw: bytes

    @classmethod
    def text(cls, text: str) -> "Value":
        """Return a string."""
        return cls(GGUFValueType.STRING, _packed(text))

    @classmethod
    def number(cls, kind: GGUFValueType, number: int | float | bool) -> "Value":
        """Return a number or a truth value of a given type."""
        return cls(kind, struct.pack("<" + _FORMATS[kind], number))

    @classmethod
    def array(cls, kind: GGUFValueType, items: Sequence[Scalar]) -> "Value":
        """Return an array of one type."""
        if kind == GGUFValueType.STRING:
            body = b"".join(_packed(str(item)) for item in items)
        else:
            body = struct.pack(f"<{len(items)}{_FORMATS[kind]}", *items)
        return cls(GGUFValueType.ARRAY, struct.pack("<IQ", kind, len(items)) + body)

    @property
    def scalar(self) -> Scalar:
        """The number or text."""
        if self.type == GGUFValueType.STRING:
            return self.raw[8:].decode("utf-8", errors="surrogateescape")
        found: Scalar = struct.unpack("<" + _FORMATS[self.type], self.raw)[0]
        return found

    @property
    def item_type(self) -> GGUFValueType:
        """The type of an array's items."""
        return GGUFValueType(struct.unpack_from("<I", self.raw)[0])

    @property
    def items(self) -> list[Scalar]:
        """The items of an array."""
        count = struct.unpack_from("<Q", self.raw, 4)[0]
        if self.item_type != GGUFValueType.STRING:
            return list(struct.unpack_from(f"<{count}{_FORMATS[self.item_type]}", self.raw, 12))
        out: list[Scalar] = []
        at = 12
        for _ in range(count):
            length = struct.unpack_from("<Q", self.raw, at)[0]
            out.append(self.raw[at + 8 : at + 8 + length].decode("utf-8", errors="surrogateescape"))
            at += 8 + length
        return out


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies. `shape` has the fastest dimension first, as GGUF writes it: (D, V) for an embedding table."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    start: int

    @property
    def num_bytes(self) -> int:
        """How many bytes it takes."""
        return tensor_bytes(self.shape, self.type)


def tensor_bytes(shape: Sequence[int], kind: GGMLQuantizationType) -> int:
    """Return how many bytes a tensor of this shape and type takes."""
    block, size = GGML_QUANT_SIZES[kind]
    return int(math.prod(shape) // block * size)


class GGUFFile:
    """A GGUF file that is whole: every tensor that its header names lies within it."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            SourceError: not GGUF of a version that we know, truncated, or a header that contradicts itself or the file's size.
        """
        self.path = path
        self._data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
        cursor = _Cursor(self._data, path)
        if cursor.take(4) != b"GGUF":
            raise cursor.error("a file that begins with GGUF", "another beginning")
        version = cursor.number("I")
        if version not in (2, VERSION):
            raise cursor.error("GGUF of version 2 or 3, little endian", f"version {version}")
        num_tensors, num_values = cursor.count(32), cursor.count(13)
        self.metadata: dict[str, Value] = {}
        for _ in range(num_values):
            key, value = cursor.string(), cursor.value()
            if key in self.metadata:
                raise cursor.error("each key once", f"{key!r:.80} twice")
            self.metadata[key] = value
        self.alignment = self._alignment(cursor)
        infos = [cursor.tensor() for _ in range(num_tensors)]
        start = _aligned(cursor.at, self.alignment)
        self.tensors: dict[str, Tensor] = {}
        for info in infos:
            placed = Tensor(info.name, info.shape, info.type, start + info.start)
            if placed.start % self.alignment or placed.start + placed.num_bytes > len(self._data):
                raise cursor.error(f"the whole of tensor {info.name!r:.80}", "data that ends or lies elsewhere")
            if info.name in self.tensors:
                raise cursor.error("each tensor once", f"{info.name!r:.80} twice")
            self.tensors[info.name] = placed

    def scalar(self, key: str, default: Scalar | None = None) -> Scalar | None:
        """Return the number or text under a key."""
        value = self.metadata.get(key)
        return default if value is None or value.type == GGUFValueType.ARRAY else value.scalar

    def items(self, key: str) -> list[Scalar]:
        """Return the array under a key, empty where there is none."""
        value = self.metadata.get(key)
        return value.items if value is not None and value.type == GGUFValueType.ARRAY else []

    def data(self, name: str) -> np.ndarray:
        """Return a tensor's bytes, rows x bytes of a row, without a copy."""
        tensor = self.tensors[name]
        flat = self._data[tensor.start : tensor.start + tensor.num_bytes]
        return flat.reshape(math.prod(tensor.shape[1:]), -1)

    def _alignment(self, cursor: "_Cursor") -> int:
        alignment = self.scalar(ALIGNMENT_KEY, 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 16 or alignment & (alignment - 1):
            raise cursor.error("an alignment that is a power of two", repr(alignment)[:40])
        return alignment


@dataclass(frozen=True)
class NewTensor:
    """A tensor to write: its bytes are those of `parts`, one after the other."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    parts: tuple[np.ndarray, ...]


def write_gguf(path: Path, metadata: Mapping[str, Value], tensors: Sequence[NewTensor], alignment: int = 32) -> None:
    """Write a GGUF file of version 3. The caller moves it to its place when all is written (`core.files`)."""
    header = [b"GGUF", struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    header += [_packed(key) + struct.pack("<I", value.type) + value.raw for key, value in metadata.items()]
    offset = 0
    for tensor in tensors:
        shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        header.append(_packed(tensor.name) + shape + struct.pack("<IQ", tensor.type, offset))
        offset = _aligned(offset + tensor_bytes(tensor.shape, tensor.type), alignment)
    with path.open("xb") as out:
        out.write(b"".join(header))
        _pad(out, alignment)
        for tensor in tensors:
            before = out.tell()
            for chunk in _chunks(tensor.parts):
                out.write(chunk)
            assert out.tell() - before == tensor_bytes(tensor.shape, tensor.type), tensor.name
            _pad(out, alignment)


class _Cursor:
    """A place in the header. Nothing is taken that is not there."""

    def __init__(self, data: np.ndarray, path: Path) -> None:
        self._data, self._path, self.at = data, path, 0

    def error(self, expected: str, found: str) -> SourceError:
        return SourceError(expected, f"{found} in {self._path.name}", "fetch or convert the file again, or name another --base")

    def take(self, length: int) -> bytes:
        if length > len(self._data) - self.at:
            raise self.error(f"{length} more bytes of header", f"a file that ends after {len(self._data)}")
        self.at += length
        return self._data[self.at - length : self.at].tobytes()

    def number(self, form: str) -> int:
        found: int = struct.unpack("<" + form, self.take(struct.calcsize(form)))[0]
        return found

    def count(self, least: int) -> int:
        """Return a number of things that take at least so many bytes each, checked to have room."""
        count = self.number("Q")
        if count * least > len(self._data) - self.at:
            raise self.error("a header within the file", f"{count} entries")
        return count

    def string(self) -> str:
        return self.take(self.count(1)).decode("utf-8", errors="surrogateescape")

    def value(self) -> Value:
        kind = self._kind(self.number("I"))
        start = self.at
        if kind == GGUFValueType.ARRAY:
            item = self._kind(self.number("I"))
            if item == GGUFValueType.ARRAY:
                raise self.error("arrays of numbers or texts", "an array of arrays")
            count = self.count(8 if item == GGUFValueType.STRING else _SIZES[item])
            self._skip(item, count)
        else:
            self._skip(kind, 1)
        end, self.at = self.at, start
        return Value(kind, self.take(end - start))

    def tensor(self) -> Tensor:
        name, dimensions = self.string(), self.number("I")
        if not 0 < dimensions <= _MOST_DIMENSIONS:
            raise self.error(f"1 to {_MOST_DIMENSIONS} dimensions", str(dimensions))
        shape = tuple(self.number("Q") for _ in range(dimensions))
        try:
            kind = GGMLQuantizationType(self.number("I"))
        except ValueError as error:
            raise self.error("a tensor type that the gguf package knows", str(error)) from error
        block = GGML_QUANT_SIZES[kind][0]
        if not all(shape) or shape[0] % block or math.prod(shape) > len(self._data) * 256:
            raise self.error(f"a shape of whole blocks for {name!r:.80}", str(shape))
        return Tensor(name, shape, kind, self.number("Q"))

    def _kind(self, number: int) -> GGUFValueType:
        try:
            return GGUFValueType(number)
        except ValueError as error:
            raise self.error("a value type of GGUF", str(number)) from error

    def _skip(self, kind: GGUFValueType, count: int) -> None:
        if kind != GGUFValueType.STRING:
            length = count * _SIZES[kind]
            if length > len(self._data) - self.at:
                raise self.error("a whole header", "a value that the file cuts short")
            self.at += length
            return
        for _ in range(count):
            length = self.count(1)
            self.at += length


def _packed(text: str) -> bytes:
    raw = text.encode("utf-8", errors="surrogateescape")
    return struct.pack("<Q", len(raw)) + raw


def _aligned(at: int, alignment: int) -> int:
    return -(-at // alignment) * alignment


def _pad(out: BinaryIO, alignment: int) -> None:
    out.write(b"\0" * (_aligned(out.tell(), alignment) - out.tell()))


def _chunks(parts: Sequence[np.ndarray]) -> Iterator[bytes]:
    for part in parts:
        flat = np.ascontiguousarray(part).view(np.uint8).reshape(-1)
        for start in range(0, len(flat), _COPIED_AT_ONCE):
            yield flat[start : start + _COPIED_AT_ONCE].tobytes()
