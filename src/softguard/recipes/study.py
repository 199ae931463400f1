"""`study`: the cells of a grid, here one after the other or as Ray tasks; finished ones are not run again, failed ones are told.

    OUT/cells/<hash>/            one run directory a cell
    OUT/failures/<hash>.json     what went wrong in a cell; gone once it succeeds
    OUT/results.parquet          one row a cell, of finished and failed ones alike, and one a system that cells share

Drafts are content-addressed (`teacher`), so that cells which differ only in what is learned share them: one cell of each
teacher runs first and fills the cache for the others. Ray does the scheduling; we write none.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softguard.core.files import write_atomically
from softguard.errors import CompatibilityError, ConfigError
from softguard.evaluation.results import EvaluationSummary, SystemResult
from softguard.recipes.answers import FOLDER
from softguard.recipes.cluster import Cluster
from softguard.recipes.config import on_this_machine, resolved, validate_config
from softguard.recipes.distill import Report, distill
from softguard.recipes.evaluate import evaluate
from softguard.recipes.paths import with_absolute_paths
from softguard.recipes.ray_tasks import on_ray, what_went_wrong
from softguard.recipes.study_plan import Cell
from softguard.runs import RunDir

Ended = Callable[[Cell, str], None]
"""Called with a cell that has ended and its error, empty where it succeeded."""
_SHARED_SETTINGS = ("model.", "teacher.", "evaluation.", "data.seed")
"""How the settings begin that the systems which cells share depend on."""


@dataclass(frozen=True)
class StudyResult:
    """How a study ended: cells by outcome, and its table."""

    cells: Sequence[Cell]
    failed: Sequence[Cell]
    table: Path


def run_study(
    cells: Sequence[Cell],
    out: Path,
    data_dir: Path | None,
    report: Report,
    *,
    workers: int = 1,
    address: str | None = None,
    with_test: bool = True,
) -> StudyResult:
    """Run the cells that are not finished and write the table of all.

    Args:
        cells: what `load_study` returned.
        out: the study's folder; cells of earlier calls stay in it.
        data_dir: folder of public sets.
        report: told of the cells that have ended and, where they run in this process, of the stages within.
        workers: cells at a time on this machine; the processor's cores are shared out among them.
        address: a Ray cluster (`auto`, `ray://HOST:10001`); its workers must see under the same paths `out`, the cache and
            the files that a cell names, which are told to them by absolute paths.
        with_test: measure each on our test split; without it the table has the validation figures alone.

    Raises:
        CompatibilityError: the folder holds something else.
        ConfigError: pyarrow, or Ray where it is asked for, is not installed.
    """
    _parquet()  # before minutes are spent on a cell
    if out.exists() and not (out.is_dir() and ((out / "cells").is_dir() or not any(out.iterdir()))):
        raise CompatibilityError(f"a study's folder, or none, at {out}", "something else", "choose another --out")
    (out / "cells").mkdir(parents=True, exist_ok=True)
    pending = [c for c in cells if not _finished(out, c, with_test)]
    ended = len(cells) - len(pending)
    report("cells", ended, len(cells), {})

    def note(cell: Cell, error: str) -> None:
        nonlocal ended
        ended += 1
        record = out / "failures" / f"{cell.name}.json"
        if error:
            write_atomically(record, json.dumps({"settings": dict(cell.settings), "error": error}, indent=1) + "\n")
        else:
            record.unlink(missing_ok=True)
        write_table(cells, out)
        report("cells", ended, len(cells), {})

    names = {c.name for c in pending}
    first, later = _by_teacher(pending, [c for c in cells if c.name not in names])
    cluster = Cluster(workers, address)
    if cluster.is_this_process:
        for cell in (*first, *later):
            note(cell, _run_here(cell, out, data_dir, with_test, report))
    else:
        for batch in (first, later):
            for cell, error in _run_on_ray(batch, out, data_dir, with_test, cluster):
                note(cell, error)
    table = write_table(cells, out)
    return StudyResult(cells, [c for c in cells if (out / "failures" / f"{c.name}.json").exists()], table)


def write_table(cells: Sequence[Cell], out: Path) -> Path:
    """Write `results.parquet`, a row for each cell that has ended and each system that cells share, and return its path.

    Columns: cell, config_sha256, status, error; the settings that any grid varies; best_step, num_parameters,
    validation_auc, validation_drift, validation_score, threshold, seconds; and each metric of the student on the test split.
    These metrics, and the AUC of the validation, have their `_low`, `_high` and `_n`. A shared system has the status `shared`,
    its name as `system`, and no cell.
    """
    pa, pq = _parquet()
    rows = [row for cell in cells if (row := _row(cell, out))]
    rows += [_shared_row(cell, system) for cell, system in shared_systems(cells, out)]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [_scalar(row.get(name)) for row in rows] for name in names or ("cell",)}
    for name, values in columns.items():
        if len({float if isinstance(v, int) and not isinstance(v, bool) else type(v) for v in values if v is not None}) > 1:
            columns[name] = [None if v is None else json.dumps(v) for v in values]
    path = out / "results.parquet"
    write_atomically(path, lambda partial: pq.write_table(pa.table(columns), partial))
    return path


def read_table(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a study's table.

    Raises:
        ConfigError: it is no such table, or pyarrow, which reads it, is not installed.
    """
    pa, pq = _parquet()
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ConfigError("the Parquet table of a study", f"{path}: {str(error)[:120]}", "run `softguard study`") from error
    return rows


def shared_systems(cells: Sequence[Cell], out: Path) -> list[tuple[Cell, SystemResult]]:
    """Return what was measured beside the students (base, guarded system, hard system prompt), each with a cell that tells of it.

    Cells of one model, teacher, evaluation and draw of prompts share them: the first that is evaluated tells.
    """
    first: dict[str, Cell] = {}
    for cell in cells:
        config = cell.config
        if "evaluate" in RunDir(out / "cells" / cell.name).stages():
            first.setdefault(repr((config.model, config.teacher, config.evaluation, config.data.seed)), cell)
    return [(cell, s) for cell in first.values() for s in _summary(cell, out).systems if s.system != "student"]


def run_cell(config: Mapping[str, Any], run: str, data_dir: str | None, with_test: bool, report: Report) -> str:
    """Distil and evaluate one cell; return what went wrong, empty where nothing did. Runs in any process."""
    try:
        folder = Path(run)
        distill(validate_config(dict(config)), folder, Path(data_dir) if data_dir else None, report)
        if with_test:
            evaluate(folder, report)
    except Exception as error:  # a cell may fail in any way; the study goes on, and the table says what it was
        return what_went_wrong(error)
    return ""


def _run_here(cell: Cell, out: Path, data_dir: Path | None, with_test: bool, report: Report) -> str:
    def within(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        if stage == "training":
            report(f"cell {cell.name}", done, total, figures)

    run = str(out / "cells" / cell.name)
    return run_cell(resolved(with_absolute_paths(cell.config)), run, str(data_dir) if data_dir else None, with_test, within)


def _run_on_ray(
    cells: Sequence[Cell], out: Path, data_dir: Path | None, with_test: bool, cluster: Cluster
) -> Iterator[tuple[Cell, str]]:
    """Yield each cell with its error as it ends."""
    threads = cluster.threads
    folder = None if data_dir is None else str(data_dir.absolute())
    arguments, by_name = {}, {c.name: c for c in cells}
    for cell in cells:
        model = cell.config.model
        config = cell.config.model_copy(update={"model": model.model_copy(update={"threads": model.threads or threads})})
        sent = resolved(with_absolute_paths(config))
        arguments[cell.name] = (sent, str((out / "cells" / cell.name).absolute()), folder, with_test)
    for name, error in on_ray(_run_quietly, arguments, cluster):
        yield by_name[name], error


def _run_quietly(config: Mapping[str, Any], run: str, data_dir: str | None, with_test: bool) -> str:
    return run_cell(config, run, data_dir, with_test, lambda stage, done, total, figures: None)


def _by_teacher(pending: Sequence[Cell], finished: Sequence[Cell]) -> tuple[list[Cell], list[Cell]]:
    """Return one cell for each teacher and set of prompts whose drafts no finished cell has sampled, and the others."""

    def teacher(cell: Cell) -> str:
        config = on_this_machine(cell.config)
        return repr((config.model, config.teacher, config.data, config.training.drift_prompts))

    sampled = {teacher(c) for c in finished}
    first = {teacher(c): c for c in reversed(pending) if teacher(c) not in sampled}
    chosen = {c.name for c in first.values()}
    return [c for c in pending if c.name in chosen], [c for c in pending if c.name not in chosen]


def _finished(out: Path, cell: Cell, with_test: bool) -> bool:
    stages = RunDir(out / "cells" / cell.name).stages()
    return "train" in stages and ("evaluate" in stages or not with_test)


def _row(cell: Cell, out: Path) -> dict[str, Any]:
    """Return the row of a cell, empty for one that has not ended."""
    folder, failure = out / "cells" / cell.name, out / "failures" / f"{cell.name}.json"
    row: dict[str, Any] = {"cell": cell.name, "config_sha256": cell.config_sha256, "status": "done", "error": None}
    row |= dict(cell.settings)
    if failure.exists():
        return row | {"status": "failed", "error": json.loads(failure.read_text(encoding="utf-8"))["error"]}
    stages = RunDir(folder).stages()
    if "train" not in stages:
        return {}
    point = json.loads((folder / "operating_point.json").read_text(encoding="utf-8"))
    row |= {"best_step": point["best_step"], "threshold": point["threshold"], "seconds": point["training_seconds"]}
    row["num_parameters"] = point.get("num_parameters")
    row |= {f"validation_{k}": v for k, v in point["validation"].items()}
    if "evaluate" in stages:
        student = _summary(cell, out).system("student")
        row |= _figures(student) if student else {}
    return row


def _shared_row(cell: Cell, system: SystemResult) -> dict[str, Any]:
    row: dict[str, Any] = {"cell": None, "config_sha256": None, "status": "shared", "error": None, "system": system.system}
    row |= {key: value for key, value in cell.settings.items() if key.startswith(_SHARED_SETTINGS)}
    return row | _figures(system)


def _figures(system: SystemResult) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, metric in system.metrics.items():
        row |= {name: metric.value, f"{name}_low": metric.low, f"{name}_high": metric.high, f"{name}_n": metric.n}
    return row


def _summary(cell: Cell, out: Path) -> EvaluationSummary:
    file = out / "cells" / cell.name / FOLDER / "summary.json"
    return EvaluationSummary.model_validate_json(file.read_text(encoding="utf-8"))


def _parquet() -> tuple[Any, Any]:
    """Return the modules `pyarrow` and `pyarrow.parquet`.

    Raises:
        ConfigError: they are not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        todo = "pip install 'softguard[study]'"
        raise ConfigError("pyarrow, for the table of a study", "it is not installed", todo) from error
    return pa, pq


def _scalar(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict | tuple) else value
