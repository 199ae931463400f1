"""Numbers and results in words: how a value of each unit is written; `verdict.py` makes sentences of them.

One idea: each number is turned into text in one place, so that the page, the Markdown and the terminal agree. A new unit
is one entry in `_FORMS`; one that is not there is written after the number.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from softguard.evaluation.results import (
    Difference,
    EvaluationSummary,
    JudgeAgreement,
    MetricInfo,
    MetricValue,
    SampleTriple,
    metric_info,
)

HARMLESS_LABELS = frozenset({"benign", "look_alike"})
"""Sample labels whose text is shown; any other is redacted unless asked for."""

ABSENT = "–"

_FORMS: Mapping[str, Callable[[float], str]] = {
    "rate": lambda v: f"{100 * v:.1f} %",
    "auc": lambda v: f"{v:.3f}",
    "nats": lambda v: f"{v:.3f}",
    "count": lambda v: f"{v:,.0f}",
    "MiB": lambda v: f"{v:,.2f} MiB" if abs(v) < 10 else f"{v:,.0f} MiB",
    "ratio": lambda v: f"{100 * v:+.1f} %",
    "points": lambda v: f"{100 * v:+.1f} points",
}


@dataclass(frozen=True)
class Cell:
    """A value in the table: the number, its interval, and what to mind, each empty where there is none."""

    value: str
    interval: str = ""
    remark: str = ""


def number(value: float, unit: str) -> str:
    """Return the number with its unit: rates in per cent, the rest by `_FORMS`."""
    form = _FORMS.get(unit)
    return form(value) if form else f"{value:.3g} {unit}".strip()


def cell(metric: MetricValue | None) -> Cell:
    """Return a metric as the table shows it; without a headline, its bounds; a dash where it was not measured."""
    if metric is None:
        return Cell(ABSENT, remark="not measured")
    parts = [metric.note] if metric.note else []
    if metric.ungraded:
        bounds = ""
        if metric.lower_bound is not None and metric.upper_bound is not None:
            bounds = f": {_range(metric.lower_bound, metric.upper_bound, metric.unit)} with them"
        parts.append(f"{metric.ungraded} of {metric.n + metric.ungraded} ungraded{bounds}")
    if metric.value is None:
        return Cell(ABSENT, remark="; ".join(parts) or "not measured")
    interval = ""
    if metric.low is not None and metric.high is not None:
        interval = _range(metric.low, metric.high, metric.unit)
    return Cell(number(metric.value, metric.unit), interval, "; ".join(parts))


def info(name: str, summary: EvaluationSummary | None = None) -> MetricInfo:
    """Return what a metric is called, in a table by who judged there; one that has no entry is shown under its own name."""
    words = name.replace("_", " ").capitalize()
    known = summary.info(name) if summary else metric_info(name)
    return known or MetricInfo(label=words, unit="", better=None, definition="As the benchmark defines it.")


def direction(name: str) -> str:
    """Return which way of the metric is better, in words; empty where neither is."""
    better = info(name).better
    return f"{better} is better" if better else ""


def shown_samples(summary: EvaluationSummary, show_harmful: bool) -> list[SampleTriple]:
    """Return the samples as they may be shown: harmless ones, and the rest without their text unless asked for."""
    return [s if show_harmful or s.label in HARMLESS_LABELS else s.withheld() for s in summary.samples]


def difference(d: Difference) -> str:
    """Return a paired difference with its interval, its remark and its p-value, corrected where several suites are shown."""
    shown = cell(d.value)
    parts = [f"{shown.value} ({shown.interval})" if shown.interval else shown.value]
    if d.p_value is not None:
        holm = f", {_p(d.p_holm)} corrected (Holm)" if d.p_holm is not None else ""
        parts.append(f"p {_p(d.p_value)}{holm}, {d.test}")
    return "; ".join([*parts, shown.remark] if shown.remark else parts)


def agreement(a: JudgeAgreement) -> str:
    """Return how far two judges agree."""
    ungraded = f", {a.ungraded} ungraded by either" if a.ungraded else ""
    if a.observed is None:
        return f"nothing that both have graded{ungraded}"
    kappa = "not defined (one verdict throughout)" if a.kappa is None else f"{a.kappa:.2f}"
    interval = f" ({a.low:.2f} to {a.high:.2f})" if a.low is not None and a.high is not None else ""
    return f"kappa {kappa}{interval}; the same verdict on {number(a.observed, 'rate')} of {a.n} answers{ungraded}"


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _range(low: float, high: float, unit: str) -> str:
    """Return both ends with the unit once: `85.3–92.3 %`, and with "to" where a sign would be read as a dash."""
    first, last = number(low, unit), number(high, unit)
    suffix = re.sub(r"^[-+\d.,]+", "", first)
    start = first.removesuffix(suffix) if last.endswith(suffix) else first
    return f"{start} to {last}" if low < 0 or last[0] == "+" else f"{start}–{last}"
