"""Rows of the comparison: what each cell of a study gave, with intervals, and which cell of each method validation chose.

A method is a cell's settings without its learning rate and seed. `chosen` is the learning rate of the best mean validation score
over a method's seeds: no test figure takes part. Systems without a learning rate (base, guarded system, hard system prompt) are
rows too, as they were measured beside the first evaluated cell that shares them. Harmful prompts are in no row.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.methods.paired import Floats, auc, drawn, interval_of
from softguard.evaluation.results import EvaluationSummary, MetricValue
from softguard.recipes.answers import FOLDER
from softguard.recipes.prompts import balanced, own_prompts
from softguard.recipes.study import shared_systems
from softguard.recipes.study_plan import Cell
from softguard.runs import RunDir

Row = dict[str, Any]
FREE = ("training.learning_rate", "training.seed")
"""What a method is chosen over, and what is only chance."""


def collect(study: str, cells: Sequence[Cell], out: Path) -> list[Row]:
    """Return a row for each cell that has ended and, once a cell is evaluated, for each system that all cells share."""
    rows: list[Row] = []
    for cell in cells:
        folder, failure = out / "cells" / cell.name, out / "failures" / f"{cell.name}.json"
        row: Row = {"study": study, **describe(cell)}
        if failure.exists():
            error = json.loads(failure.read_text(encoding="utf-8"))["error"]
            rows.append({**row, "status": "failed", "error": error})
            continue
        stages = RunDir(folder).stages()
        if "train" not in stages:
            continue
        point = json.loads((folder / "operating_point.json").read_text(encoding="utf-8"))
        row |= {"status": "done", "best_step": point["best_step"], "num_parameters": point["num_parameters"]}
        row |= {"training_seconds": point["training_seconds"], "validation": point["validation"], "metrics": {}}
        if "evaluate" in stages:
            summary = EvaluationSummary.model_validate_json((folder / FOLDER / "summary.json").read_text(encoding="utf-8"))
            student = summary.system("student")
            row["metrics"] = with_intervals(student.metrics) if student else {}
        rows.append(row)
    mark_chosen(rows)
    for row in rows:
        if not row.get("chosen", True):
            row["metrics"] = {}  # another study has chosen and measured it
    add_leads(rows, {cell.name: cell for cell in cells}, out)
    shared: list[Row] = [
        {"study": study, "method": s.system, "status": "done", "metrics": with_intervals(s.metrics)}
        for _, s in shared_systems(cells, out)
    ]
    return [*shared, *rows]


def describe(cell: Cell) -> Row:
    """Return what a cell is: method, objective, adapter, seed, settings that the grid chose, config hash."""
    config = cell.config
    told = [f"{k.rpartition('.')[2]}={_plain(v)}" for k, v in cell.settings.items() if k not in FREE and not k.endswith(".kind")]
    return {
        "method": " ".join([config.objective.kind, config.adapter.kind, *told]),
        "objective": config.objective.kind,
        "adapter": config.adapter.kind,
        "seed": config.training.seed,
        "learning_rate": config.training.learning_rate,
        "cell": cell.name,
        "config_sha256": cell.config_sha256,
    }


def mark_chosen(rows: Sequence[Row]) -> None:
    """Say of each cell that ended well whether its method's learning rate was chosen by validation (`chosen`)."""
    scores: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        if row["status"] == "done":
            by_rate = scores.setdefault(row["method"], {})
            by_rate.setdefault(row["learning_rate"], []).append(row["validation"]["score"])
    for row in rows:
        if row["status"] == "done":
            means = {rate: sum(found) / len(found) for rate, found in scores[row["method"]].items()}
            row["chosen"] = row["learning_rate"] == max(means, key=lambda rate: means[rate])


def chosen(cells: Sequence[Cell], rows: Sequence[Row]) -> list[Cell]:
    """Return the cells whose test split is read."""
    names = {row["cell"] for row in rows if row.get("chosen")}
    return [cell for cell in cells if cell.name in names]


def add_leads(rows: Sequence[Row], cells: Mapping[str, Cell], out: Path) -> None:
    """Give each evaluated cell `auc_lead`: its AUC on the test split minus that of the paper's objective, paired by prompt.

    The paper's is `tv_disp` as validation chose it in the same study, of the same seed where there is one. Harmful prompts and
    their look-alikes are drawn by family.
    """
    measured = [row for row in rows if row.get("metrics")]
    paper = [row for row in measured if row["objective"] == "tv_disp"]
    for row in measured:
        reference = next((p for p in paper if p["seed"] == row["seed"]), paper[0] if paper else row)
        if reference is not row:
            config = cells[row["cell"]].config
            prompts = balanced(own_prompts("test"), config.evaluation.prompts_per_label, config.data.seed)
            own, other = (_log_odds(out / "cells" / r["cell"]) for r in (row, reference))
            weights = drawn([p.topic or p.id for p in prompts], np.random.default_rng(0))
            up, down = (np.array([p.label == label for p in prompts]) for label in ("harmful", "look_alike"))
            lead = np.subtract(*(auc(s[up], s[down], weights[:, up], weights[:, down]) for s in (own, other)))
            row["auc_lead"] = {"value": float(lead[0]), **interval_of(lead[1:]), "over": reference["cell"]}


def _log_odds(folder: Path) -> Floats:
    """Return s of each test prompt that the student of a cell was asked."""
    lines = (folder / FOLDER / "student.jsonl").read_text(encoding="utf-8").splitlines()
    return np.array([json.loads(line)["refusal_log_odds"] for line in lines])


def with_intervals(metrics: Mapping[str, MetricValue]) -> dict[str, dict[str, Any]]:
    """Return value, 95 % interval and denominator of each metric."""
    return {name: {"value": m.value, "low": m.low, "high": m.high, "n": m.n, "unit": m.unit} for name, m in metrics.items()}


def _plain(value: Any) -> str:
    """Return a setting's value in a word: a placement as front:24+after_user:8."""
    if isinstance(value, list) and value and all(isinstance(v, dict) and "slot" in v for v in value):
        return "+".join(f"{v['slot']}:{v['count']}" for v in value)
    return json.dumps(value) if isinstance(value, list | dict) else str(value)
