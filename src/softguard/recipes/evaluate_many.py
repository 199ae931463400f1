"""`evaluate --suite` for several runs: here one after the other, or as Ray tasks.

What runs share (the base model's answers, the guard's verdicts) is kept by content, so that the first run of each base model and
guard is measured before the others of its kind, which then find it there.
"""

from collections.abc import Sequence
from pathlib import Path

from softguard.errors import RunError
from softguard.recipes.cluster import HERE, Cluster
from softguard.recipes.distill import Report
from softguard.recipes.ray_tasks import on_ray, what_went_wrong
from softguard.recipes.suite_request import SuiteRequest
from softguard.recipes.suites import evaluate_suites
from softguard.runs import RunDir


def evaluate_many(
    runs: Sequence[Path],
    request: SuiteRequest,
    data_dir: Path | None,
    report: Report,
    cluster: Cluster = HERE,
) -> dict[Path, str]:
    """Measure several runs on suites; return by run what went wrong, empty where nothing did. One that fails stops no other.

    Args:
        runs: run directories; each counts once.
        request: what to measure, the same of all.
        data_dir: folder of public sets.
        report: told of the runs that have ended and, where they are measured in this process, of the stages within.
        cluster: how many runs at a time, and where; workers elsewhere must see the runs, `data_dir` and the cache under the
            same paths.

    Raises:
        ConfigError: see `SuiteRequest.checked`; or Ray is asked for and not installed.
        RunError: a folder that is no run.
    """
    request = request.checked()
    runs = list(dict.fromkeys(runs))
    ended: dict[Path, str] = {}

    def note(run: Path, error: str) -> None:
        ended[run] = error
        report("runs", len(ended), len(runs), {})

    report("runs", 0, len(runs), {})
    for batch in first_of_each(runs):
        if cluster.is_this_process:
            for run in batch:
                note(run, measure_run(str(run), request, None if data_dir is None else str(data_dir), report))
            continue
        folder = None if data_dir is None else str(data_dir.absolute())
        by_name = {str(run.absolute()): run for run in batch}
        for name, error in on_ray(measure_quietly, {n: (n, request, folder) for n in by_name}, cluster):
            note(by_name[name], error)
    return {run: ended[run] for run in runs}


def first_of_each(runs: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return one run of each base model and guard, and the others.

    Raises:
        RunError: a folder that is no run.
    """
    first: dict[str, Path] = {}
    for run in runs:
        config = RunDir.open(run).config
        if "model" not in config or "teacher" not in config:
            raise RunError(f"a run that was distilled in {run}", "other settings", "name run directories")
        first.setdefault(repr((config["model"], config["teacher"])), run)
    chosen = list(first.values())
    return chosen, [run for run in runs if run not in chosen]


def measure_run(run: str, request: SuiteRequest, data_dir: str | None, report: Report) -> str:
    """Measure one run; return what went wrong, empty where nothing did. Runs in any process."""
    try:
        evaluate_suites(Path(run), request, Path(data_dir) if data_dir else None, report)
    except Exception as error:  # a run may fail in any way; the others are measured, and the caller says what it was
        return what_went_wrong(error)
    return ""


def measure_quietly(run: str, request: SuiteRequest, data_dir: str | None) -> str:
    """Measure one run without a bar, in a process that has no terminal."""
    return measure_run(run, request, data_dir, _silent)


def _silent(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
    return None
