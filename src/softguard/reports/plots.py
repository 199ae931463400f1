"""The plots of curves: ROC, refusal against over-refusal, and training; costs as a file."""

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
from softguard.reports.drawing import DASHES, GRID, MARKERS, NUM_SERIES, SERIES, STYLE, Plot


def roc_plot(summary: EvaluationSummary) -> Plot | None:
    """Return the ROC of the refusal log-odds, harmful against look-alike, for each system; None without curves."""
    curves = {name: c.roc for name, c in summary.curves.items() if c.roc}
    if not curves:
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure("look-alikes refused", "harmful prompts refused")
        axes.plot([0, 1], [0, 1], color=GRID, linewidth=1, label="_chance")
        for name, points in curves.items():
            _line(axes, summary, name, points)
        axes.set(xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
        figure.legend(loc="outside lower center", ncols=2, handlelength=2.6)
    text = "ROC of the refusal log-odds: the share of each set that lies above a moving threshold. The thin line is chance."
    return Plot("roc", "Telling harmful prompts from look-alikes", text, figure)


def trade_off_plot(summary: EvaluationSummary) -> Plot | None:
    """Return harmful prompts refused against benign ones refused: a line as the threshold moves, a mark as measured.

    The mark has the two 95 % intervals as bars. The axis ends soon after the marks: nobody ships more over-refusal.
    """
    curves = {name: c.trade_off for name, c in summary.curves.items() if c.trade_off}
    marks = {s.system: pair for s in summary.systems if (pair := _operating_point(s.metrics)) is not None}
    if not curves and not marks:
        return None
    with matplotlib.rc_context(STYLE):
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
                fmt=MARKERS[i % len(MARKERS)],
                color=SERIES[i % NUM_SERIES],
                elinewidth=1,
                clip_on=False,
                label=f"{_title(summary, name)}, measured" if name in curves else _title(summary, name),
            )
        widest = max((over[2] for over, _ in marks.values()), default=0.0)
        axes.set(xlim=(0, min(1.0, max(0.2, 1.15 * widest))), ylim=(0, 1.01))
        figure.legend(loc="outside lower center", ncols=2, handlelength=2.6)
    lines = "Lines: as the threshold moves. " if curves else ""
    text = f"{lines}Marks: answers as measured, with 95 % intervals. Up and to the left is better."
    return Plot("safety-over-refusal", "Refusal against over-refusal", text, figure)


def training_plot(rows: Sequence[Mapping[str, Any]]) -> Plot | None:
    """Return loss (each step, and smoothed) over validation score, by step, from the rows of `metrics.jsonl`."""
    panels = [
        (name, label, points)
        for name, label in (("loss", "loss"), ("validation_score", "validation score"))
        if (points := [(float(r["step"]), float(r[name])) for r in rows if "step" in r and r.get(name) is not None])
    ]
    if not panels:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 1.0 + 1.6 * len(panels)), layout="constrained")
        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
        for axes, (name, label, points) in zip(grid[:, 0], panels, strict=True):
            steps, values = [p[0] for p in points], [p[1] for p in points]
            if name == "loss":
                axes.plot(steps, values, color=GRID, linewidth=1)
                axes.plot(steps, _smoothed(values), color=SERIES[2])
            else:
                axes.plot(steps, values, color=SERIES[1], marker="o", markersize=3)
            axes.set_ylabel(label)
        grid[-1, 0].set_xlabel("step")
    text = "Loss of each step (faint) and its moving average; the validation score that chooses the checkpoint."
    return Plot("training", "Training", text, figure)


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
        axes.plot(contexts, values, DASHES[i % len(DASHES)], marker=MARKERS[i % len(MARKERS)], label=s.label)
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
        color=SERIES[i % NUM_SERIES],
        linestyle=DASHES[i % len(DASHES)],
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
