"""The report as one self-contained HTML page: no script, no network, light and dark, readable on a phone.

Jinja2 with autoescape on; the page's own content security policy forbids every load, so that even a hole in the escaping
could fetch nothing. The templates lie in `templates/`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from softguard.evaluation.results import EvaluationSummary
from softguard.reports.markdown import flat
from softguard.reports.plots import roc_plot, trade_off_plot, training_plot
from softguard.reports.wording import agreement, cell, difference, direction, info, shown_samples, verdict
from softguard.runs import RunDir

REPORT_NAME = "report.html"
MAX_SHOWN_CHARACTERS = 800
"""Longer sample texts are cut, and say so."""


def render_html(
    summary: EvaluationSummary,
    metrics_rows: Sequence[Mapping[str, Any]] = (),
    show_harmful: bool = False,
    suites: Sequence[tuple[str, EvaluationSummary]] = (),
) -> str:
    """Return the page.

    Args:
        summary: what was measured.
        metrics_rows: the rows of the run's `metrics.jsonl`, for the training curve (`step`, `loss`, `validation_score`).
        show_harmful: show the text of harmful samples that the summary still holds.
        suites: the summaries of suites, each with the name of its folder.
    """
    environment = page_environment()
    environment.filters["shortened"] = _shortened
    environment.globals |= {"cell": cell, "info": info, "direction": direction, "difference": difference, "agreement": agreement}
    plots = {"roc": roc_plot(summary), "trade_off": trade_off_plot(summary), "training": training_plot(metrics_rows)}
    return environment.get_template("report.html.j2").render(
        summary=summary,
        verdict=verdict(summary),
        names=summary.metric_names(),
        plots={name: Markup(svg) for name, svg in plots.items() if svg},
        samples=shown_samples(summary, show_harmful),
        provenance=flat(summary.provenance),
        suites=suites,
    )


def page_environment() -> Environment:
    """Return what renders the pages of this room: everything is escaped, a name that is not given is an error."""
    return Environment(
        loader=PackageLoader("softguard.reports"),
        autoescape=select_autoescape(("html.j2", "html")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_report(
    run_dir: Path,
    summary: EvaluationSummary,
    metrics_rows: Sequence[Mapping[str, Any]] = (),
    show_harmful: bool = False,
    suites: Sequence[tuple[str, EvaluationSummary]] = (),
) -> Path:
    """Write `report.html` into the run atomically and return its path; the manifest is the caller's to renew."""
    return RunDir(run_dir).write_text(REPORT_NAME, render_html(summary, metrics_rows, show_harmful, suites))


def _shortened(text: str) -> str:
    if len(text) <= MAX_SHOWN_CHARACTERS:
        return text
    return f"{text[:MAX_SHOWN_CHARACTERS]} … [cut: {len(text)} characters in all]"
