"""`gguf-lora`: A and B of a LoRA in the file that llama.cpp's `--lora` takes.

A converter may have put the rows of a projection in another order: Llama's q and k are permuted within each head, from the halves
that transformers rotates to the neighbours that llama.cpp does. The rows of B then need that order too. Which order a file has is
read off its weights, beside those that the student was trained with, and not off a list of architectures: a tensor that matches
in no order we know is refused.

References:
    Names, metadata, shapes:
    https://github.com/ggml-org/llama.cpp/blob/0b03adaa632b76c7651dd1f6fa3b7a0b5eda479c/convert_lora_to_gguf.py
    The loader, `llama_adapter_lora_init_impl`:
    https://github.com/ggml-org/llama.cpp/blob/0650ea8c05bc6e31273182470197e9b2e50253e0/src/llama-adapter.cpp
    The permutation, `LlamaModel.permute`:
    https://github.com/ggml-org/llama.cpp/blob/7bca1fd9ca2a681b0182e16f24f832b7be1942af/conversion/llama.py
"""

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from softguard.adapters import Lora
from softguard.errors import CompatibilityError
from softguard.export.gguf_beside import ARCHITECTURE, checked_base, exported
from softguard.export.gguf_file import GGUFFile
from softguard.export.protocol import EXPORTERS, Exported, StudentModel
from softguard.export.quantised import Floats, decode
from softguard.export.refusal_entry import BakedRows
from softguard.models import unpacked

_CHECKED_ROWS, _SAME = 64, 0.98
_OTHER_BASE = "name the GGUF of this run's base model with --base"
Order = NDArray[np.int64]


@EXPORTERS.register("gguf-lora")
class GGUFLoraExporter:
    """Low-rank updates."""

    description = "a LoRA that llama.cpp loads beside the base's GGUF"
    carries = ("lora",)
    bakes_head = False

    def check(self, student: StudentModel) -> None:
        """See `Exporter.check`."""
        _places(student, checked_base(student))

    def write(self, student: StudentModel, rows: BakedRows | None, folder: Path) -> Exported:
        """See `Exporter.write`."""
        file, config = checked_base(student), _lora(student).config
        target = folder / f"{student.title}.lora.gguf"
        writer = gguf.GGUFWriter(target, str(file.scalar(ARCHITECTURE)))
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, config.scaling * config.rank)  # the loader divides by the rank
        writer.add_string("softguard.base_sha256", student.base_sha256)
        places = _places(student, file)
        for place in places:
            writer.add_tensor(f"{place.tensor}.lora_a", place.a)
            writer.add_tensor(f"{place.tensor}.lora_b", np.ascontiguousarray(place.b[place.order]))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        moved = sum(bool((place.order != np.arange(len(place.order))).any()) for place in places)
        return exported(
            student,
            file,
            target,
            lambda path: ("--lora", path),
            {"tensors": len(places), "tensors_with_rows_reordered": moved, "rank": config.rank, "scaling": config.scaling},
            ("`--lora-scaled FILE:SCALE` weakens or strengthens it. Scales other than 1 were not measured.",),
        )


@dataclass(frozen=True)
class _Place:
    """A projection: its tensor in the base's file, A and B, and which row of ours each row of the file is."""

    tensor: str
    a: Floats
    b: Floats
    order: Order


def _places(student: StudentModel, file: GGUFFile) -> list[_Place]:
    architecture, depth = str(file.scalar(ARCHITECTURE)), file.scalar(f"{file.scalar(ARCHITECTURE)}.block_count")
    known = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    if architecture not in known or not isinstance(depth, int):
        raise CompatibilityError("an architecture of the gguf package", repr(architecture)[:40], "update the gguf package")
    names = gguf.get_tensor_name_map(known[architecture], depth)
    found = []
    for module, (a, b) in _lora(student).pairs().items():
        name = names.get_name(module)
        tensor = f"{name}.weight"
        if name is None or tensor not in file.tensors:
            todo = "train with other adapter.target_modules, or name another --base"
            raise CompatibilityError(f"a tensor for {module} in {file.path.name}", str(name or "none"), todo)
        order = rows_order(file, tensor, _weight(student, module), _head_width(file, architecture))
        found.append(_Place(tensor, _numbers(a), _numbers(b), order))
    return found


def rows_order(file: GGUFFile, tensor: str, weight: Floats, head_width: int) -> Order:
    """Return which row of a weight each row of a file's tensor is: as they are, or by llama.cpp's permutation within heads.

    Args:
        file: the base.
        tensor: its name there.
        weight: out x in, as transformers has it.
        head_width: rows of a head.

    Raises:
        CompatibilityError: the tensor has another shape, or matches in neither order (cosine of some rows below 0.98).
    """
    count = len(weight)
    if file.tensors[tensor].shape != weight.shape[::-1]:
        raise CompatibilityError(f"{tensor} of {weight.shape[::-1]}", str(file.tensors[tensor].shape), _OTHER_BASE)
    orders: list[Order] = [np.arange(count, dtype=np.int64)]
    if head_width and count % head_width == 0 and head_width % 2 == 0:
        orders.append(orders[0].reshape(-1, 2, head_width // 2).swapaxes(1, 2).reshape(-1))
    rows = orders[0][:: max(1, count // _CHECKED_ROWS)]
    there = decode(file, tensor, rows)
    scores = [_cosine(there, weight[order[rows]]) for order in orders]
    best = int(np.argmax(scores))
    if not scores[best] >= _SAME:
        raise CompatibilityError(f"the weights of the run's base model in {tensor}", f"cosine {scores[best]:.3f}", _OTHER_BASE)
    return orders[best]


def _cosine(a: Floats, b: Floats) -> float:
    return float(np.mean((a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)))


def _weight(student: StudentModel, module: str) -> Floats:
    """Return a projection's weight, out x in."""
    return _numbers(unpacked(student.lm.network.get_submodule(module)))


def _head_width(file: GGUFFile, architecture: str) -> int:
    own = file.scalar(f"{architecture}.attention.key_length")
    width, heads = (file.scalar(f"{architecture}.{key}") for key in ("embedding_length", "attention.head_count"))
    if isinstance(own, int):
        return own
    return width // heads if isinstance(width, int) and isinstance(heads, int) and heads else 0


def _numbers(tensor: Tensor) -> Floats:
    found: Floats = tensor.detach().float().cpu().numpy()
    return found


def _lora(student: StudentModel) -> Lora:
    assert isinstance(student.adapter, Lora)
    return student.adapter
