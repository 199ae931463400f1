"""`report`: the Markdown, the HTML page and the plots of a finished run, with the suites that it was evaluated on."""

import json
from pathlib import Path
from typing import Any

from softguard.core.files import write_atomically
from softguard.errors import DataError, RunError
from softguard.evaluation.correction import corrected
from softguard.evaluation.results import EvaluationSummary, SampleTriple
from softguard.recipes.answers import FOLDER
from softguard.recipes.prompts import balanced, own_prompts
from softguard.recipes.suites import summaries_of
from softguard.reports import render_html, render_markdown, write_plots, write_report
from softguard.reports.wording import HARMLESS_LABELS
from softguard.runs import RunDir

PLOTS = "plots"
"""The folder beside the page with each of its plots as SVG and PNG. Not in the manifest: all of it can be drawn again."""


def report_run(run: RunDir, summary: EvaluationSummary) -> Path:
    """Write `report.html`, `report.md` and `plots/` and return the page's path. Harmful samples are redacted."""
    rows = _history(run)
    summary, suites = shown_together(run, summary)
    page = write_report(run.path, summary, rows, suites=suites)
    run.write_text("report.md", render_markdown(summary, suites=suites))
    run.finish_stage("report")
    write_plots(run.path / PLOTS, summary, rows, suites)
    return page


def harmful_page(run: RunDir, out: Path) -> None:
    """Write the page with the text of its harmful samples to a file that is not the run's own: that one stays fit to be shown.

    Raises:
        DataError: the text is not to be had: the prompts that ship with softguard are no longer those of the evaluation.
        RunError: `out` is the run's own page, or the run has no evaluation.
    """
    if out.resolve() == (run.path / "report.html").resolve():
        raise RunError("another file than the run's report", str(out), "name a file that you will not pass on by mistake")
    summary = evaluation_of(run)
    samples = [s if s.label in HARMLESS_LABELS else _revealed(run, summary, s) for s in summary.samples]
    summary, suites = shown_together(run, summary.model_copy(update={"samples": samples}))
    page = render_html(summary, _history(run), show_harmful=True, suites=suites)
    write_atomically(out, page)


def evaluation_of(run: RunDir) -> EvaluationSummary:
    """Return the run's evaluation on our test split.

    Raises:
        RunError: it has none.
    """
    file = run.path / FOLDER / "summary.json"
    if "evaluate" not in run.stages() or not file.exists():
        raise RunError(f"an evaluated run in {run.path}", "none", f"run `softguard evaluate {run.path}` first")
    return EvaluationSummary.model_validate_json(file.read_text(encoding="utf-8"))


def shown_together(run: RunDir, summary: EvaluationSummary) -> tuple[EvaluationSummary, list[tuple[str, EvaluationSummary]]]:
    """Return the evaluation on our test split, and the run's suites by folder, their tests corrected together."""
    named = summaries_of(run)
    first, *others = corrected([summary, *(s for _, s in named)])
    return first, [(folder, s) for (folder, _), s in zip(named, others, strict=True)]


def _history(run: RunDir) -> list[dict[str, Any]]:
    history = run.path / "metrics.jsonl"
    return [json.loads(line) for line in history.read_text().splitlines()] if history.exists() else []


def _revealed(run: RunDir, summary: EvaluationSummary, sample: SampleTriple) -> SampleTriple:
    """Return a sample with its text: the first prompt of its label, if what was kept says that it is the same."""
    config = run.config
    rows = balanced(own_prompts("test"), config["evaluation"]["prompts_per_label"], config["data"]["seed"])
    at = next((i for i, r in enumerate(rows) if r.label == sample.label), None)
    replies = {name: (run.path / FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines() for name in sample.answers}
    found = None
    if at is not None and all(len(lines) == len(rows) for lines in replies.values()):
        answers = {name: json.loads(lines[at])["text"] for name, lines in replies.items()}
        found = SampleTriple(prompt=rows[at].prompt, label=sample.label, redacted=False, answers=answers)
    known = {r.prompt for r in rows}
    same = all(s.prompt in known for s in summary.samples if not s.redacted)
    if found is None or not same or found.withheld().prompt != sample.prompt:
        raise DataError(
            f"the {sample.label} prompt that the run was evaluated on",
            "other prompts in this version of softguard",
            "evaluate anew, or use the version that provenance.json names",
        )
    return found
