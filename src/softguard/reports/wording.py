"""Numbers and results in words: how a value of each unit is written, and the verdict in three sentences.

One idea: each number is turned into text in one place, so that the page, the Markdown and the terminal agree. A new unit
is one entry in `_FORMS`; one that is not there is written after the number.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from softguard.evaluation.results import (
    Difference,
    EvaluationSummary,
    JudgeAgreement,
    MetricInfo,
    MetricValue,
    SampleTriple,
    SystemResult,
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


def info(name: str) -> MetricInfo:
    """Return what a metric is called; one that has no entry is shown under its own name."""
    words = name.replace("_", " ").capitalize()
    return metric_info(name) or MetricInfo(label=words, unit="", better=None, definition="As the benchmark defines it.")


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


def verdict(summary: EvaluationSummary) -> tuple[str, str, str]:
    """Return what was gained, what it costs the user, and what it costs the device, a sentence each.

    The subject is the student, or the last system where there is none. What was not measured is said to be so.
    """
    if not summary.systems:
        return ("No system was evaluated.", "Nothing is known of over-refusal.", "Nothing is known of the cost.")
    subject = summary.system("student") or summary.systems[-1]
    others = [s for s in (summary.system("base"), summary.system("guarded")) if s is not None and s is not subject]
    return _gain(subject, others), _price(subject, others), _cost(subject, others)


def _gain(subject: SystemResult, others: Sequence[SystemResult]) -> str:
    refusal = _phrase(subject, "refusal_rate")
    if refusal is None:
        return f"How often the {subject.title} refuses harmful prompts was not measured."
    compared = _against(others, "refusal_rate")
    n = subject.metrics["refusal_rate"].n
    return f"Of {n} harmful prompts the {subject.title} refuses {refusal}{compared}."


def _price(subject: SystemResult, others: Sequence[SystemResult]) -> str:
    parts = []
    if over := _phrase(subject, "over_refusal_rate"):
        parts.append(f"refuses {over} of benign prompts{_against(others, 'over_refusal_rate')}")
    if auc := _phrase(subject, "refusal_auc"):
        parts.append(f"tells harmful prompts from their look-alikes with an AUC of {auc}")
    if drift := _phrase(subject, "benign_drift"):
        parts.append(f"drifts from the base model's benign answers by {drift} nats a token")
    return f"It {_join(parts)}." if parts else "What it costs on benign prompts was not measured."


def _cost(subject: SystemResult, others: Sequence[SystemResult]) -> str:
    own = _costs(subject)
    if not own:
        return "What it costs on the device was not measured."
    guarded = next((s for s in others if s.system == "guarded"), None)
    rival = _costs(guarded) if guarded else ""
    return f"It adds {own}" + (f", where the {guarded.title} adds {rival}." if guarded and rival else ".")


def _costs(system: SystemResult) -> str:
    forms = {"added_parameters": "{} parameters", "added_memory_mib": "{} of memory", "extra_compute": "{} compute per token"}
    shown = {name: _plain(system, name) for name in forms}
    return _join([forms[name].format(value.removeprefix("+")) for name, value in shown.items() if value is not None])


def _plain(system: SystemResult, name: str) -> str | None:
    metric = system.metrics.get(name)
    return None if metric is None or metric.value is None else number(metric.value, metric.unit)


def _phrase(system: SystemResult, name: str) -> str | None:
    """Return a value with its interval in brackets, None where there is no headline."""
    if (value := _plain(system, name)) is None:
        return None
    interval = cell(system.metrics[name]).interval
    return f"{value} ({interval})" if interval else value


def _against(others: Sequence[SystemResult], name: str) -> str:
    shown = [(other.title, _plain(other, name)) for other in others]
    known = [f"{value} for the {title}" for title, value in shown if value is not None]
    return f", against {_join(known)}" if known else ""


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def _range(low: float, high: float, unit: str) -> str:
    """Return both ends with the unit once: `85.3–92.3 %`, and with "to" where a sign would be read as a dash."""
    first, last = number(low, unit), number(high, unit)
    suffix = re.sub(r"^[-+\d.,]+", "", first)
    start = first.removesuffix(suffix) if last.endswith(suffix) else first
    return f"{start} to {last}" if low < 0 or last[0] == "+" else f"{start}–{last}"
