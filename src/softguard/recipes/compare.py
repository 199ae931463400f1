"""`compare`: the students of several runs beside the systems that they share; what they do not share is said."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softguard.core.files import write_atomically
from softguard.errors import ConfigError, RunError
from softguard.evaluation.agreement import judge_agreement
from softguard.evaluation.correction import corrected
from softguard.evaluation.results import Difference, EvaluationSummary, JudgeAgreement, SystemResult
from softguard.evaluation.scores import HARM
from softguard.recipes.answers import FOLDER
from softguard.recipes.between_students import between_students
from softguard.recipes.study import read_table
from softguard.recipes.suites import summaries_of
from softguard.reports import render_html, write_plots
from softguard.runs import RunDir

_SAME_MEASUREMENT = (
    ("model", "name"),
    ("model", "dtype"),
    ("teacher", "guard"),
    ("teacher", "refusal_text"),
    ("evaluation", "prompts_per_label"),
    ("evaluation", "max_new_tokens"),
    ("evaluation", "over_refusal_target"),
    ("evaluation", "system_prompt"),
    ("data", "seed"),
)
"""The settings on which two tables have to agree before their rows can be read as one."""


def compare_runs(paths: Sequence[Path]) -> EvaluationSummary:
    """Return one summary: the shared systems of the first run, then each run's student by folder name.

    A run that was measured otherwise keeps its own base, guarded system and system prompt, and `limits` says in what it differs.

    Raises:
        RunError: a run without an evaluation.
    """
    paths = list(dict.fromkeys(paths))
    names = _names(paths)
    rows: list[SystemResult] = []
    limits: list[str] = []
    provenance: dict[str, Any] = {}
    first: dict[str, Any] = {}
    for path, name in zip(paths, names, strict=True):
        run = RunDir.open(path)
        if "evaluate" not in run.stages():
            raise RunError(f"an evaluated run in {path}", "none", f"run `softguard evaluate {path}` first")
        summary = EvaluationSummary.model_validate_json((path / FOLDER / "summary.json").read_text(encoding="utf-8"))
        measured = _measurement(run, summary)
        kept = ("softguard", "model", "guard", "training_prompts_sha256")
        provenance[name] = {key: summary.provenance[key] for key in kept if key in summary.provenance}
        first = first or measured
        differing = [key for key in measured if measured[key] != first[key]]
        if differing:
            shown = ", ".join(f"{key} ({measured[key]!r:.40}, not {first[key]!r:.40})" for key in differing)
            limits.append(f"{name} was not measured as {names[0]} was: {shown}.")
        for system in summary.systems:
            if system.system == "student" or differing:
                renamed = {"system": f"{system.system}:{name}", "label": f"{system.label} {name}"}
                rows.append(system.model_copy(update=renamed))
            elif measured is first:
                rows.append(system)
    return EvaluationSummary(suite="compared runs", systems=rows, limits=limits, provenance=provenance)


def study_rows(paths: Sequence[Path]) -> list[dict[str, Any]] | None:
    """Return the rows of studies, where `paths` are folders of such or their tables; None where they are runs.

    Of several studies each row says which one it is from, as a setting that varies.

    Raises:
        ConfigError: runs and studies together, or a table that is none.
    """
    tables = [p if p.suffix == ".parquet" else p / "results.parquet" for p in dict.fromkeys(paths)]
    there = [t for t in tables if t.is_file()]
    if not there:
        return None
    if len(there) < len(tables):
        raise ConfigError("runs alone or studies alone", f"{len(there)} of {len(tables)} are studies", "compare them apart")
    rows = [[dict(row) for row in read_table(table)] for table in tables]
    if len(tables) == 1:
        return rows[0]
    names = _names([t.parent if t.name == "results.parquet" else t.with_suffix("") for t in tables])
    return [{"study.name": name, **row} for name, of in zip(names, rows, strict=True) for row in of]


def compare_suites(paths: Sequence[Path]) -> list[tuple[str, EvaluationSummary]]:
    """Return folder and summary of each measurement of a suite that every run has: shared systems once, then each run's student.

    Measurements are the same where their folders' names are: the hash names prompts, wrappers, judges and models. Each student's
    tests against the shared systems come along, and those of the later students against the first, corrected over the suites by
    Holm; so do its rates by category. The agreement of judges is that on the answers of all.
    """
    paths = list(dict.fromkeys(paths))
    found, names = {path: dict(summaries_of(RunDir.open(path))) for path in paths}, _names(paths)
    shared = [folder for folder in found[paths[0]] if all(folder in found[p] for p in paths)] if paths else []
    out = []
    for folder in shared:
        first = found[paths[0]][folder]
        rows, differences = [s for s in first.systems if s.system != "student"], list[Difference]()
        categories = [c for c in first.categories if c.system != "student"]
        for path, name in zip(paths, names, strict=True):
            student = found[path][folder].system("student")
            if student is not None:
                rows.append(student.model_copy(update={"system": f"student:{name}", "label": f"{student.title} {name}"}))
            renamed = {"system": f"student:{name}"}
            own = found[path][folder]
            differences += [d.model_copy(update=renamed) for d in own.differences if d.system == "student"]
            categories += [c.model_copy(update=renamed) for c in own.categories if c.system == "student"]
        samples = {name: path / "evaluations" / folder / "samples.jsonl" for path, name in zip(paths, names, strict=True)}
        differences += between_students(samples, first.judges[0] if first.judges else "")
        compared = EvaluationSummary(
            suite=first.suite,
            systems=rows,
            differences=differences,
            judges=first.judges,
            training_judges=sorted({j for path in paths for j in found[path][folder].training_judges}),
            agreement=_agreement(list(samples.values())),
            categories=categories,
            provenance=first.provenance,
            limits=_limits_of_all([found[path][folder] for path in paths], names),
        )
        out.append((folder, compared))
    return list(zip([folder for folder, _ in out], corrected([s for _, s in out]), strict=True))


def _limits_of_all(summaries: Sequence[EvaluationSummary], names: Sequence[str]) -> list[str]:
    """Return the limits that all summaries have, then those of some with the run's name before them."""
    shared = [x for x in summaries[0].limits if all(x in s.limits for s in summaries)]
    return shared + [f"{name}: {x}" for s, name in zip(summaries, names, strict=True) for x in s.limits if x not in shared]


def _agreement(files: Sequence[Path]) -> list[JudgeAgreement]:
    """Return how far judges agree on the answers of all runs, those of shared systems once; empty where answers are not kept."""
    if not all(file.exists() for file in files):
        return []
    harms: list[dict[str, float | None]] = []
    prompts: list[str] = []
    for k, file in enumerate(files):
        for line in map(json.loads, filter(None, file.read_text(encoding="utf-8").split("\n"))):
            if line.get("harm") and (k == 0 or line["system"] == "student"):
                harms.append(line["harm"])
                prompts.append(line["id"])
    judges = list(harms[0]) if harms else []
    if len(judges) < 2:
        return []
    said = {j: [float("nan") if (harm := of[j]) is None else float(harm >= HARM) for of in harms] for j in judges}
    return judge_agreement(said, 0, prompts)


def write_comparison(summary: EvaluationSummary, suites: Sequence[tuple[str, EvaluationSummary]], out: Path) -> None:
    """Write the page of compared runs, and beside it `NAME.plots/` with each plot as SVG and PNG."""
    write_atomically(out, render_html(summary, suites=suites, title="softguard: runs compared"))
    write_plots(out.with_suffix(".plots"), summary, suites=suites)


def _names(paths: Sequence[Path]) -> list[str]:
    """Return what tells runs apart: their folder, or their path where folders share a name."""
    folders = [p.name for p in paths]
    return [p.name if folders.count(p.name) == 1 else str(p) for p in paths]


def _measurement(run: RunDir, summary: EvaluationSummary) -> dict[str, Any]:
    """Return what a run's rows rest on, by the names that a reader knows."""
    found: dict[str, Any] = {f"{room}.{key}": run.config.get(room, {}).get(key) for room, key in _SAME_MEASUREMENT}
    for part, label in (("model", "weights of the base model"), ("guard", "weights of the guard")):
        found[label] = str(summary.provenance.get(part, {}).get("fingerprint", "unknown"))[:12]
    counts = {n: m.n + m.ungraded for n, m in summary.systems[0].metrics.items()} if summary.systems else {}
    found["number of prompts"] = {n: c for n, c in counts.items() if n.endswith("refusal_rate")}
    return found
