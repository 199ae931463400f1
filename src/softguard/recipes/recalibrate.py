"""`recalibrate`: another operating point for a run that is made. No training, no guard: scores of benign validation prompts.

The point is a threshold on the refusal log-odds, or one row of the head (decision 0027): what a runtime can be given decides
then in memory, too.
"""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from softguard.errors import CompatibilityError
from softguard.recipes.calibration import operating_point
from softguard.recipes.config import resolved, validate_config
from softguard.recipes.decision import row_operating_point
from softguard.recipes.distill import Report, load_run
from softguard.recipes.policies import POLICY_FILE
from softguard.recipes.prompts import own_prompts
from softguard.recipes.student import ModelSystem
from softguard.runs import RunDir

ROW_KEYS = ("row", "refused_of_them", "agreement_with_log_odds")
COPIED = ("provenance.json", "metrics.jsonl", POLICY_FILE)

Score = Literal["log-odds", "row"]
"""What decides: the refusal log-odds, or one row of the head."""


def recalibrate(path: Path, out: Path, over_refusal_target: float | None, by: Score | None, report: Report) -> RunDir:
    """Return a run at `out` that is the run at `path` but for its operating point; that one is left as it is.

    Its figures and report are not taken over: they are of the other point.

    Args:
        path: a finished run.
        out: a new folder, or that of a recalibration to the same target, which is then done.
        over_refusal_target: the share of benign validation prompts that may be refused, in [0, 1) (`calibrate`); None: the run's.
        by: what decides; None: what does in the run.
        report: told of the prompts that are scored.

    Raises:
        RunError: no finished run at `path`.
        ConfigError: a target out of its range.
        CompatibilityError: `out` is the run itself or holds something else.
        DataError: no row keeps within the target.
    """
    settings = RunDir.open(path).config
    if over_refusal_target is not None:
        settings["evaluation"]["over_refusal_target"] = over_refusal_target
    config = validate_config(settings)
    if out.resolve() == path.resolve():
        raise CompatibilityError(
            "another folder than the run's own", str(out), "choose another --out: its figures are of its own point"
        )
    loaded = load_run(path)
    by = by or ("log-odds" if loaded.decision is None else "row")
    run = RunDir.create(out, resolved(config))
    if "train" in run.stages():
        there: Score = "row" if "row" in _point(out) else "log-odds"
        if there != by:
            raise CompatibilityError(
                f"a run in {out} that decides by {by}", f"one that decides by {there}", "choose another --out"
            )
        return run
    for name in COPIED:
        if (path / name).exists():
            run.write_text(name, (path / name).read_text(encoding="utf-8"))
    shutil.copytree(path / "adapter", out / "adapter", dirs_exist_ok=True)
    free = ModelSystem("student", loaded.lm, adapter=loaded.adapter, refusal_text=loaded.config.teacher.refusal_text)
    validation = own_prompts("validation")
    if by == "row":
        point = row_operating_point(free, own_prompts("train"), validation, config, report)
    else:
        point = operating_point(free, validation, config, lambda done, total: report("operating point", done, total, {}))
    kept = {k: v for k, v in _point(path).items() if k not in ROW_KEYS}
    run.write_text("operating_point.json", json.dumps(kept | point, indent=2) + "\n")
    run.finish_stage("train")
    return run


def _point(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "operating_point.json").read_text())
    return found
