"""How far a run's export decides as its student in memory does, by the base's quantisation; `benchmarks/export/figures.json`.

python -m benchmarks.export.figures benchmarks/reference

For the run's own GGUF and for copies of it in F16 and Q8_0 (the same weights, other arithmetic): the export's own verification on
300 test prompts, and decisions on the 100 test prompts whose refusal log-odds lie nearest to the operating point.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGMLQuantizationType as Type

from softguard.core.files import write_atomically
from softguard.data import PromptRow
from softguard.export import EXPORTERS
from softguard.export.gguf_file import GGUFFile, NewTensor, write_gguf
from softguard.export.quantised import decode, encode
from softguard.recipes import export_checks as checks
from softguard.recipes.distill import load_run
from softguard.recipes.export import Base, ExportSettings, export_student, find_base, fit
from softguard.recipes.prompts import own_prompts
from softguard.recipes.student import ModelSystem
from softguard.runtimes import LlamaServer, find_llama_server
from softguard.sources.checks import file_sha256

OUT = Path(__file__).parent / "figures.json"


def requantised(source: Path, kind: Type, target: Path) -> Path:
    """Write a GGUF whose matrices are of one type and hold what the source's decode to."""
    file = GGUFFile(source)
    tensors = []
    for tensor in file.tensors.values():
        if len(tensor.shape) < 2:
            tensors.append(NewTensor(tensor.name, tensor.shape, tensor.type, (file.data(tensor.name),)))
        else:
            tensors.append(NewTensor(tensor.name, tensor.shape, kind, (encode(decode(file, tensor.name), kind),)))
    write_gguf(target, file.metadata, tensors, file.alignment)
    return target


def borderline(student: ModelSystem, rows: list[PromptRow], count: int) -> list[PromptRow]:
    """Return the prompts whose s lies nearest to the operating point."""
    assert student.threshold is not None
    s = np.array(student.refusal_log_odds([r.conversation for r in rows]))
    return [rows[i] for i in sorted(np.argsort(np.abs(s - student.threshold))[:count])]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--positions", type=int, default=100_000)
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--borderline", type=int, default=100)
    parser.add_argument("--bases", nargs="+", default=["own", "F16", "Q8_0"])
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    loaded = load_run(options.run)
    student, own = loaded.student(), find_base(loaded.config.model.name, None)
    assert own is not None
    near = borderline(student, own_prompts("test"), options.borderline)
    fitted = fit(student, options.positions, report)
    found: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name in options.bases:
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            base = own
            if name != "own":
                path = requantised(own.path, Type[name], work / f"{name}.gguf")
                base = Base(path, file_sha256(path), False)
            settings = ExportSettings(options.positions, options.prompts)
            exporter = EXPORTERS.get("gguf")()
            figures = export_student(exporter, "gguf", student, base, work / "out", settings, report, options.run.name, fitted)
            with LlamaServer(work / "out" / figures["facts"]["file"], find_llama_server()) as server:
                figures["borderline"] = checks.check_answers(server, checks.Reference(student), near, report)
        found[f"{options.run.name}/{name}"] = figures
        write_atomically(options.out, json.dumps(found, indent=1) + "\n")
        print(name, figures["answers"]["agreement"], figures["borderline"]["kappa"], flush=True)


def report(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
    """Say where the work is."""
    if done in (0, total):
        print(f"{stage}: {done}/{total}", flush=True)


if __name__ == "__main__":
    main()
