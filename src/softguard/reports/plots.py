"""The page's plots as inline SVG: ROC curves, safety against over-refusal, and the training curve; costs as a file.

One idea: matplotlib draws with placeholder colours, which are then replaced by CSS variables, so that one drawing follows
the page into light and dark; text stays text. A series is told by its dash and marker as well as by its colour. The same
summary gives the same bytes. Must not import pyplot, which keeps state between figures.
See docs/decisions/0003-report-plots.md.
"""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from softguard.core.files import write_atomically
from softguard.costs import CostReport
from softguard.errors import ConfigError
from softguard.evaluation.results import CurvePoint, EvaluationSummary, MetricValue

NUM_SERIES = 6
"""Colours that the style sheet has (`--series-0` ...); later systems start again with another dash."""

_INK, _MUTED, _GRID = "#010101", "#020202", "#030303"
_SERIES = [f"#10000{i}" for i in range(NUM_SERIES)]
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _GRID: "--line"} | {c: f"--series-{i}" for i, c in enumerate(_SERIES)}
_DASHES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "softguard",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
}


def roc_plot(summary: EvaluationSummary) -> str | None:
    """Return the ROC of the refusal log-odds, harmful against look-alike, for each system; None where there is none."""
    curves = {name: c.roc for name, c in summary.curves.items() if c.roc}
    if not curves:
        return None
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure("look-alikes refused", "harmful prompts refused")
        axes.plot([0, 1], [0, 1], color=_GRID, linewidth=1, label="_chance")
        for name, points in curves.items():
            _line(axes, summary, name, points)
        axes.set(xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
        return _svg(figure, "roc", legend=True)


def trade_off_plot(summary: EvaluationSummary) -> str | None:
    """Return harmful prompts refused against benign ones refused: a line as the threshold moves, a mark as measured.

    The mark has the two 95 % intervals as bars. The axis ends soon after the marks: nobody ships more over-refusal.
    """
    curves = {name: c.trade_off for name, c in summary.curves.items() if c.trade_off}
    marks = {s.system: pair for s in summary.systems if (pair := _operating_point(s.metrics)) is not None}
    if not curves and not marks:
        return None
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure("benign prompts refused", "harmful prompts refused")
        for name, points in curves.items():
            _line(axes, summary, name, points)
        for name, (over, safe) in marks.items():
            i = _index(summary, name)
            axes.errorbar(
                [over[1]],
                [safe[1]],
                xerr=[[over[1] - over[0]], [over[2] - over[1]]],
                yerr=[[safe[1] - safe[0]], [safe[2] - safe[1]]],
                fmt=_MARKERS[i % len(_MARKERS)],
                color=_SERIES[i % NUM_SERIES],
                elinewidth=1,
                clip_on=False,
                label=f"{_title(summary, name)}, measured" if name in curves else _title(summary, name),
            )
        widest = max((over[2] for over, _ in marks.values()), default=0.0)
        axes.set(xlim=(0, min(1.0, max(0.2, 1.15 * widest))), ylim=(0, 1.01))
        return _svg(figure, "trade-off", legend=True)


def training_plot(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return loss (each step, and smoothed) over validation score, by step, from the rows of `metrics.jsonl`."""
    panels = [
        (name, label, points)
        for name, label in (("loss", "loss"), ("validation_score", "validation score"))
        if (points := [(float(r["step"]), float(r[name])) for r in rows if "step" in r and r.get(name) is not None])
    ]
    if not panels:
        return None
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.8, 1.0 + 1.6 * len(panels)), layout="constrained")
        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
        for axes, (name, label, points) in zip(grid[:, 0], panels, strict=True):
            steps, values = [p[0] for p in points], [p[1] for p in points]
            if name == "loss":
                axes.plot(steps, values, color=_GRID, linewidth=1)
                axes.plot(steps, _smoothed(values), color=_SERIES[2])
            else:
                axes.plot(steps, values, color=_SERIES[1], marker="o", markersize=3)
            axes.set_ylabel(label)
        grid[-1, 0].set_xlabel("step")
        return _svg(figure, "training")


def cost_plot(report: CostReport, path: Path) -> None:
    """Write operations per token by context, a line for each system, in the format that the file's ending names.

    Raises:
        ConfigError: matplotlib knows no such format.
    """
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    kind, known = path.suffix.removeprefix("."), sorted(figure.canvas.get_supported_filetypes())
    if kind not in known:
        raise ConfigError(f"a file that ends in one of {', '.join(known)}", repr(path.name), "name it PLOT.png or PLOT.svg")
    axes = figure.subplots()
    for i, s in enumerate(report.systems):
        contexts, values = [f.context for f in s.flops], [f.total / 1e9 for f in s.flops]
        axes.plot(contexts, values, _DASHES[i % len(_DASHES)], marker=_MARKERS[i % len(_MARKERS)], label=s.label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(contexts, [str(c) for c in contexts])
    axes.set(xlabel="tokens of a request", ylabel="GFLOPs per token, with the head", ylim=(0, None), title=report.model)
    figure.legend(loc="outside right upper", frameon=False)
    write_atomically(path, lambda partial: figure.savefig(partial, format=kind, dpi=150))


def _figure(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.8, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    return figure, axes


def _line(axes: Axes, summary: EvaluationSummary, name: str, points: Sequence[CurvePoint]) -> None:
    i = _index(summary, name)
    axes.plot(
        [p.x for p in points],
        [p.y for p in points],
        color=_SERIES[i % NUM_SERIES],
        linestyle=_DASHES[i % len(_DASHES)],
        label=_title(summary, name),
    )


def _operating_point(
    metrics: Mapping[str, MetricValue],
) -> tuple[tuple[float, float, float], tuple[float, float, float]] | None:
    """Return (low, value, high) of over-refusal and of refusal on harmful, None where one has no headline."""
    found = []
    for name in ("over_refusal_rate", "refusal_rate"):
        metric = metrics.get(name)
        if metric is None or metric.value is None:
            return None
        low = metric.value if metric.low is None else min(metric.low, metric.value)
        high = metric.value if metric.high is None else max(metric.high, metric.value)
        found.append((low, metric.value, high))
    return found[0], found[1]


def _index(summary: EvaluationSummary, name: str) -> int:
    names = [s.system for s in summary.systems] + [n for n in summary.curves if summary.system(n) is None]
    return names.index(name)


def _title(summary: EvaluationSummary, name: str) -> str:
    system = summary.system(name)
    return system.title if system else name


def _smoothed(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """Return the exponential moving average, corrected for its start (Adam's correction)."""
    out, average = [], 0.0
    for i, value in enumerate(values, start=1):
        average = weight * average + (1 - weight) * value
        out.append(average / (1 - weight**i))
    return out


def _svg(figure: Figure, name: str, legend: bool = False) -> str:
    """Return the figure as an `<svg>` element that scales, takes the page's colours and has ids of its own."""
    if legend:
        figure.legend(loc="outside lower center", ncols=2, handlelength=2.6)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    opening, body = text.split(">", 1)
    box = re.search(r'viewBox="([\d. -]+)"', opening)
    view = box.group(1) if box else "0 0 345.6 316.8"
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(url\(|href=")#', rf"\1#{name}-", body)
    body = re.sub(r"(fill|stroke): (#[0-9a-f]{6})", _themed, body)
    return f'<svg viewBox="{view}" aria-hidden="true" focusable="false">{body}'


def _themed(match: re.Match[str]) -> str:
    variable = _VARIABLES.get(match.group(2))
    return f"{match.group(1)}: {f'var({variable})' if variable else match.group(2)}"
