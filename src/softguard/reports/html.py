"""The report as one self-contained HTML page: no script, no network, light and dark, readable on a phone.

What is revealed by a click or a key is the browser's own `<details>`.
Jinja2 with autoescape on; the page's own content security policy forbids every load, so that even a hole in the escaping
could fetch nothing. The templates lie in `templates/`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from softguard.evaluation.results import EvaluationSummary
from softguard.reports.agreement import agreement_matrix
from softguard.reports.bars import category_bars, wrapper_bars
from softguard.reports.drawing import Plot
from softguard.reports.markdown import flat
from softguard.reports.pareto import pareto_plots
from softguard.reports.plots import roc_plot, trade_off_plot, training_plot
from softguard.reports.verdict import verdict
from softguard.reports.wording import HARMLESS_LABELS, cell, difference, direction, info, shown_samples
from softguard.runs import RunDir

REPORT_NAME = "report.html"
COLUMNS = 9
"""Figures in one table at most: more would not fit a window of 1280 pixels."""
MAX_SHOWN_CHARACTERS = 800
"""Longer sample texts are cut, and say so."""


def render_html(
    summary: EvaluationSummary,
    metrics_rows: Sequence[Mapping[str, Any]] = (),
    show_harmful: bool = False,
    suites: Sequence[tuple[str, EvaluationSummary]] = (),
    title: str = "softguard report",
) -> str:
    """Return the page.

    Args:
        summary: what was measured.
        metrics_rows: the rows of the run's `metrics.jsonl`, for the training curve (`step`, `loss`, `validation_score`).
        show_harmful: put the text of harmful samples that the summary still holds into the page, behind a click.
        suites: the summaries of suites, each with the name of its folder.
        title: heading of the page.
    """
    environment = page_environment()
    environment.filters["shortened"] = _shortened
    environment.globals |= {"cell": cell, "info": info, "direction": direction, "difference": difference, "flat": flat}
    environment.globals["matrix"] = agreement_matrix
    return environment.get_template("report.html.j2").render(
        title=title,
        summary=summary,
        verdict=verdict(summary, suites),
        names=summary.metric_names(),
        columns=COLUMNS,
        plots=_inline(own_plots(summary, metrics_rows)),
        bars=_inline(category_bars(summary)),
        samples=shown_samples(summary, show_harmful),
        harmless=HARMLESS_LABELS,
        provenance=flat(summary.provenance),
        suites=[(folder, suite, _inline(suite_plots(folder, suite))) for folder, suite in suites],
    )


def own_plots(summary: EvaluationSummary, metrics_rows: Sequence[Mapping[str, Any]] = ()) -> list[Plot]:
    """Return the plots of a summary: what safety costs first, then the curves."""
    drawn = [trade_off_plot(summary), *pareto_plots(summary), roc_plot(summary), training_plot(metrics_rows)]
    return [plot for plot in drawn if plot is not None]


def suite_plots(folder: str, suite: EvaluationSummary) -> list[Plot]:
    """Return the bars of a suite, by wrapper and by category; its folder's name goes before theirs."""
    prefix = re.sub(r"[^A-Za-z0-9]+", "-", folder).strip("-") + "-"
    wrappers = wrapper_bars(suite, prefix)
    return [*([wrappers] if wrappers else []), *category_bars(suite, prefix)]


def write_plots(
    folder: Path,
    summary: EvaluationSummary,
    metrics_rows: Sequence[Mapping[str, Any]] = (),
    suites: Sequence[tuple[str, EvaluationSummary]] = (),
) -> list[Path]:
    """Write every plot of the page into a folder, as SVG and as PNG, and return the paths."""
    plots = [*own_plots(summary, metrics_rows), *category_bars(summary)]
    plots += [plot for name, suite in suites for plot in suite_plots(name, suite)]
    return [path for plot in plots for path in plot.write(folder)]


def _inline(plots: Sequence[Plot]) -> list[tuple[Plot, Markup]]:
    return [(plot, Markup(plot.inline())) for plot in plots]


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
