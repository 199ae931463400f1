"""`gguf-control-vector`: a direction in the file that llama.cpp's `--control-vector-scaled` takes.

llama.cpp adds tensor `direction.N` to the output of block N, counted from 0, and has no place for block 0: its loader puts
`direction.N` at row N - 1 of a table and refuses 0, and the model takes row il - 1 at block il. So a vector keeps the number
that `Direction.layer` has.

References:
    The loader, `common_control_vector_load_one`:
    https://github.com/ggml-org/llama.cpp/blob/17fce9be15411587700cda558a626e9f53e54a0b/common/common.cpp
    Where it is added, `llama_adapter_cvec::apply`:
    https://github.com/ggml-org/llama.cpp/blob/0650ea8c05bc6e31273182470197e9b2e50253e0/src/llama-adapter.cpp
    Metadata, `export_gguf`:
    https://github.com/ggml-org/llama.cpp/blob/2fb62f8f50fdc264199edab5a0d3175dc0229466/tools/cvector-generator/cvector-generator.cpp
"""

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from softguard.adapters import Direction
from softguard.errors import CompatibilityError
from softguard.export.gguf_beside import ARCHITECTURE, checked_base, exported
from softguard.export.protocol import EXPORTERS, Exported, StudentModel
from softguard.export.refusal_entry import BakedRows

_KIND = "controlvector"


@EXPORTERS.register("gguf-control-vector")
class GGUFControlVectorExporter:
    """One direction."""

    description = "a control vector that llama.cpp loads beside the base's GGUF"
    carries = ("steering_vector", "difference_of_means")
    bakes_head = False

    def check(self, student: StudentModel) -> None:
        """See `Exporter.check`."""
        layer = _direction(student).layer
        if layer == 0:
            todo = "train it at another adapter.layer"
            raise CompatibilityError("a vector on block 1 or later, where llama.cpp has control vectors", "one on block 0", todo)
        file = checked_base(student)
        depth = file.scalar(f"{file.scalar(ARCHITECTURE)}.block_count")
        if not isinstance(depth, int) or layer >= depth:
            todo = "name the GGUF of this run's base model with --base"
            raise CompatibilityError(f"a base of more than {layer} blocks", str(depth), todo)

    def write(self, student: StudentModel, rows: BakedRows | None, folder: Path) -> Exported:
        """See `Exporter.write`."""
        file, direction = checked_base(student), _direction(student)
        target = folder / f"{student.title}.control-vector.gguf"
        name = f"direction.{direction.layer}"
        writer = gguf.GGUFWriter(target, _KIND)
        writer.add_string(f"{_KIND}.model_hint", str(file.scalar(ARCHITECTURE)))
        writer.add_int32(f"{_KIND}.layer_count", 1)
        writer.add_string("softguard.base_sha256", student.base_sha256)
        writer.add_tensor(name, direction.vector.detach().float().cpu().numpy().astype(np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return exported(
            student,
            file,
            target,
            lambda path: ("--control-vector-scaled", f"{path}:1"),
            {"tensor": name},
            ("The number after the colon is the strength: 1 as trained, 0 the base model. Others were not measured.",),
        )


def _direction(student: StudentModel) -> Direction[Any]:
    assert isinstance(student.adapter, Direction)
    return student.adapter
