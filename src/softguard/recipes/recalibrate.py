"""`recalibrate`: another operating point for a run that is made. No training, no guard: scores of benign validation prompts."""

import json
import shutil
from pathlib import Path

from softguard.core.protocols import Progress
from softguard.errors import CompatibilityError
from softguard.recipes.calibration import operating_point
from softguard.recipes.config import resolved, validate_config
from softguard.recipes.distill import POLICY_FILE, load_run
from softguard.recipes.prompts import own_prompts
from softguard.runs import RunDir

COPIED = ("provenance.json", "metrics.jsonl", POLICY_FILE)


def recalibrate(path: Path, out: Path, over_refusal_target: float, progress: Progress | None = None) -> RunDir:
    """Return a run at `out` that is the run at `path` but for its operating point; that one is left as it is.

    Its figures and report are not taken over: they are of the other point.

    Args:
        path: a finished run.
        out: a new folder, or that of a recalibration to the same target, which is then done.
        over_refusal_target: the share of benign validation prompts that may be refused, in [0, 1) (`calibrate`).
        progress: told of the prompts that are scored.

    Raises:
        RunError: no finished run at `path`.
        ConfigError: a target out of its range.
        CompatibilityError: `out` is the run itself or holds something else.
    """
    settings = RunDir.open(path).config
    settings["evaluation"]["over_refusal_target"] = over_refusal_target
    config = validate_config(settings)
    if out.resolve() == path.resolve():
        raise CompatibilityError(
            "another folder than the run's own", str(out), "choose another --out: its figures are of its own point"
        )
    loaded = load_run(path)
    run = RunDir.create(out, resolved(config))
    if "train" in run.stages():
        return run
    for name in COPIED:
        if (path / name).exists():
            run.write_text(name, (path / name).read_text(encoding="utf-8"))
    shutil.copytree(path / "adapter", out / "adapter", dirs_exist_ok=True)
    point = json.loads((path / "operating_point.json").read_text()) | operating_point(
        loaded.student(), own_prompts("validation"), config, progress
    )
    run.write_text("operating_point.json", json.dumps(point, indent=2) + "\n")
    run.finish_stage("train")
    return run
