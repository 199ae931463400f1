"""`report`: the Markdown and the HTML page of a finished run, with the suites that it was evaluated on."""

import json
from pathlib import Path

from softguard.evaluation.correction import corrected
from softguard.evaluation.results import EvaluationSummary
from softguard.recipes.suites import summaries_of
from softguard.reports import render_markdown, write_report
from softguard.runs import RunDir


def report_run(run: RunDir, summary: EvaluationSummary) -> Path:
    """Write `report.html` and `report.md` and return the page's path."""
    history = run.path / "metrics.jsonl"
    rows = [json.loads(line) for line in history.read_text().splitlines()] if history.exists() else []
    named = summaries_of(run)
    suites = [(folder, s) for (folder, _), s in zip(named, corrected([s for _, s in named]), strict=True)]
    page = write_report(run.path, summary, rows, suites=suites)
    run.write_text("report.md", render_markdown(summary, suites=suites))
    run.finish_stage("report")
    return page
