"""`compare`: the students of several runs beside the systems that they share."""

from collections.abc import Sequence
from pathlib import Path

from softguard.errors import RunError
from softguard.evaluation.results import EvaluationSummary, SystemResult
from softguard.recipes.evaluate import FOLDER
from softguard.runs import RunDir


def compare_runs(paths: Sequence[Path]) -> EvaluationSummary:
    """Return one summary: base, guarded system and system prompt of the first run, then each run's student by folder name.

    Raises:
        RunError: a run without an evaluation.
    """
    rows: list[SystemResult] = []
    for path in paths:
        run = RunDir.open(path)
        if "evaluate" not in run.stages():
            raise RunError(f"an evaluated run in {path}", "none", f"run `softguard evaluate {path}` first")
        summary = EvaluationSummary.model_validate_json((path / FOLDER / "summary.json").read_text())
        for system in summary.systems:
            if system.system == "student":
                name = f"student:{path.name}"
                rows.append(system.model_copy(update={"system": name, "label": f"{system.label} {path.name}"}))
            elif path == paths[0]:
                rows.append(system)
    return EvaluationSummary(suite="compared runs", systems=rows)
