"""`report`: the table, the Markdown and the HTML page of a finished run."""

import json
from pathlib import Path

from softguard.evaluation.results import EvaluationSummary
from softguard.reports import render_markdown, write_report
from softguard.runs import RunDir


def report_run(run: RunDir, summary: EvaluationSummary) -> Path:
    """Write `report.html` and `report.md` and return the page's path."""
    history = run.path / "metrics.jsonl"
    rows = [json.loads(line) for line in history.read_text().splitlines()] if history.exists() else []
    page = write_report(run.path, summary, rows)
    run.write_text("report.md", render_markdown(summary))
    run.finish_stage("report")
    return page
