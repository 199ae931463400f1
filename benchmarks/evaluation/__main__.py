"""The full evaluation: base, guarded system, hard system prompt, the paper's student and ours, on fixed subsets of all kinds.

python -m benchmarks.evaluation --data-dir ../shared/data [--work runs/evaluation] [--phases plain,wrapped] [--write-only]

The reference judge leads (trained first where it was not); beside it stand the training guard and the refusal patterns.
WORK/ours and WORK/tv_disp are copies of trained runs (`RUNS`) without their figures; a run that is there already is taken as it
is. Subsets are drawn by the seed of the runs' data, the same for both. Answers, verdicts, drafts and finds are kept by content:
killed, the same command goes on, and what is finished is read. After every phase summary.json, tables.md and report.html are
written anew from what both runs have; seconds are those that this machine spent. No prompt of a public set goes into them.
Phases are sized for two cores; `PHASES` says what each is.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from softguard.cli.console import Stages
from softguard.core.files import write_atomically
from softguard.evaluation.attacks import Budget
from softguard.evaluation.judges.reference import reference_judge_path
from softguard.evaluation.results import ANY_WRAPPER, EvaluationSummary, metric_name
from softguard.recipes.compare import compare_runs, compare_suites, write_comparison
from softguard.recipes.distill import Report
from softguard.recipes.evaluate import evaluate
from softguard.recipes.reference_judge import train_reference_judge
from softguard.recipes.suite_request import SuiteRequest
from softguard.recipes.suites import evaluate_suites, summaries_of
from softguard.reports.markdown import plain, upright_table
from softguard.reports.verdict import verdict
from softguard.reports.wording import cell, info
from softguard.runs import RunDir

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RUNS = {"tv_disp": HERE / "tv_disp", "ours": ROOT / "benchmarks/reference"}
"""Where the trained runs are; the paper's student is what configs/tv_disp_paper.toml gives."""
JUDGES = "reference,mini,refusal"
TOKENS = 64
HEADLINES = (
    "attack_success_rate",
    metric_name("attack_success_rate", wrapper=ANY_WRAPPER),
    "refusal_rate",
    "look_alike_refusal_rate",
    "over_refusal_rate",
    "refusal_auc",
    "decision_divergence",
    "sequence_tv",
    "accuracy",
    "gold_log_likelihood",
)
"""Figures of the short table, of those that a suite has."""
FIGURES = ("manifest.json", "evaluations", "report.*", "public.json")
"""Of a trained run, not taken over: an older version may have measured them."""
PHASES: Mapping[str, SuiteRequest] = {
    "plain": SuiteRequest(
        "harmbench,advbench,malicious_instruct,do_not_answer,beavertails_unsafe,xstest,beavertails_safe,alpaca,softguard",
        judges=JUDGES,
        limit=60,
        max_new_tokens=TOKENS,
    ),
    "wrapped": SuiteRequest("harmbench", wrappers="all", judges=JUDGES, limit=20, max_new_tokens=TOKENS),
    "divergence": SuiteRequest("softguard", judges=JUDGES, limit=25, max_new_tokens=TOKENS, draws=8),
    "white_box": SuiteRequest(
        "harmbench", judges=JUDGES, limit=20, max_new_tokens=TOKENS, attacks="all", budget=Budget(steps=50, seconds=5.0)
    ),
    "usefulness": SuiteRequest("usefulness", limit=30),
}
"""What is asked in each phase: 60 prompts of each label of a suite, 20 in every wrapper, 25 with eight drafts, 20 attacked."""


def prepared(work: Path, data_dir: Path | None, report: Report) -> list[Path]:
    """Return copies of the trained runs, measured on our own test split, and train the reference judge where it is not."""
    runs = [work / name for name in RUNS]
    for run, trained in zip(runs, RUNS.values(), strict=True):
        if not (run / "manifest.json").exists():
            shutil.copytree(trained, run, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*FIGURES))
            RunDir(run).finish_stage("train")
    if not reference_judge_path().exists():
        train_reference_judge(data_dir)
    for run in runs:
        evaluate(run, report)
    return runs


def measure(
    runs: Sequence[Path], phases: Mapping[str, SuiteRequest], data_dir: Path | None, report: Report, work: Path, out: Path
) -> None:
    """Measure the runs on the phases, one phase after the other, and write what there is after each."""
    record = work / "seconds.json"
    for name, request in phases.items():
        for run in runs:
            spent = _read(record)
            key, started = f"{name}: {run.name}", time.monotonic()
            try:
                evaluate_suites(run, request, data_dir, report)
            finally:  # what a kill cut short was spent too
                spent[key] = round(spent.get(key, 0.0) + time.monotonic() - started, 1)
                write_atomically(record, json.dumps(spent, indent=1) + "\n")
        write(runs, out, _read(record), phases)


def write(runs: Sequence[Path], out: Path, seconds: Mapping[str, float], phases: Mapping[str, SuiteRequest]) -> None:
    """Write summary.json, tables.md and report.html from what all runs have."""
    own, suites = compare_runs(runs), titled(runs)
    processor = platform.processor() or platform.machine()
    facts = {
        "command": "python -m benchmarks.evaluation",
        "machine": {"processor": processor, "cores": os.cpu_count(), "python": platform.python_version()},
        "commit": _commit(),
        "seconds": dict(seconds),
        "phases": {name: asdict(request) for name, request in phases.items()},
    }
    whole = {**facts, "own_test_split": own.model_dump(mode="json"), "suites": {f: s.model_dump(mode="json") for f, s in suites}}
    write_atomically(out / "summary.json", json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    write_atomically(out / "tables.md", tables(own, suites))
    write_comparison(own, suites, out / "report.html")


def titled(runs: Sequence[Path]) -> list[tuple[str, EvaluationSummary]]:
    """Return the suites that all runs have by folder, each with how it was asked in its title: HarmBench comes several times."""
    first = dict(summaries_of(RunDir.open(runs[0])))
    return [
        (folder, suite.model_copy(update={"suite": suite.suite + asked_as(first[folder].provenance.get("asked", {}))}))
        for folder, suite in compare_suites(runs)
    ]


def asked_as(asked: Mapping[str, Any]) -> str:
    """Return how a suite was asked, for its title; empty where plainly."""
    ways = ["in wrappers"] if asked.get("wrappers") else []
    ways += ["attacked with its weights"] if asked.get("attacks") else []
    ways += [f"with {asked['drafts_for_divergence']} drafts"] if asked.get("drafts_for_divergence") else []
    return f", {' and '.join(ways)}" if ways else ""


def tables(own: EvaluationSummary, suites: Sequence[tuple[str, EvaluationSummary]]) -> str:
    """Return the tables as Markdown, a metric a row."""
    blocks = ["# The full evaluation", plain(" ".join(verdict(own, suites))), "## In short", in_short(suites)]
    blocks += ["## Our own test split", upright_table(own)]
    for folder, suite in suites:
        blocks += [f"## {plain(suite.suite)}", f"`{folder}`", upright_table(suite)]
        blocks += ["\n".join(f"- {plain(limit)}" for limit in suite.limits)] if suite.limits else []
    return "\n\n".join(blocks) + "\n"


def in_short(suites: Sequence[tuple[str, EvaluationSummary]]) -> str:
    """Return a row for each suite and headline, a column for each system."""
    systems = suites[0][1].systems if suites else []
    lines = ["| suite | figure | " + " | ".join(plain(s.title) for s in systems) + " |", "|---" * (len(systems) + 2) + "|"]
    for _, suite in suites:
        for name in HEADLINES:
            values = [s.metrics.get(name) for s in suite.systems]
            if any(v is not None for v in values):
                cells = [f"{shown.value} ({shown.interval})" if (shown := cell(v)).interval else shown.value for v in values]
                label = info(name, suite).label
                lines.append(f"| {plain(suite.suite)} | {plain(label)} | " + " | ".join(plain(c) for c in cells) + " |")
    return "\n".join(lines)


def _read(record: Path) -> dict[str, float]:
    return json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}


def _commit() -> str:
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, help="folder of public sets (or SOFTGUARD_DATA)")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/evaluation", help="where the two runs are and stay")
    parser.add_argument("--out", type=Path, default=HERE, help="where summary.json, tables.md and report.html go")
    parser.add_argument("--phases", default=",".join(PHASES), help=f"of {', '.join(PHASES)}, by comma")
    parser.add_argument("--write-only", action="store_true", help="measure nothing: write from what there is")
    given = parser.parse_args()
    names = [n.strip() for n in given.phases.split(",") if n.strip()]
    if unknown := sorted(set(names) - set(PHASES)):
        parser.error(f"no such phase: {', '.join(unknown)}; choose among {', '.join(PHASES)}")
    if given.write_only:
        write([given.work / name for name in RUNS], given.out, _read(given.work / "seconds.json"), PHASES)
        return
    with Stages() as stages:
        runs = prepared(given.work, given.data_dir, stages)
        measure(runs, {n: PHASES[n] for n in names}, given.data_dir, stages, given.work, given.out)


if __name__ == "__main__":
    main()
