"""What refusing costs: a mark with both intervals for each system, and the line of those that no other beats on both axes.

The gain is the AUC here, not the share that is refused: along drift and compute, refusing everything would win by that share.
None of it is called safety: nobody has judged an answer. Refusal against over-refusal is `plots.trade_off_plot`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from softguard.evaluation.results import EvaluationSummary, MetricValue
from softguard.reports.drawing import GRID, MARKERS, NUM_SERIES, SERIES, STYLE, Plot
from softguard.reports.wording import info, number

_GAINS = {"refusal_auc": "AUC", "refusal_rate": "Refusal"}
"""What is gained: the first of these that systems have, and its name in titles."""
_PRICES = {"benign_drift": ("safety-drift", "usefulness"), "extra_compute": ("safety-compute", "cost")}


class Spot(NamedTuple):
    """A value with the ends of its interval; both are the value where it has none."""

    low: float
    value: float
    high: float


def pareto_plots(summary: EvaluationSummary) -> list[Plot]:
    """Return what is gained against usefulness (drift) and against cost (compute), each where two systems have both figures."""
    return [plot for price in _PRICES if (plot := _pareto(summary, price)) is not None]


def frontier(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points (price, gain) that no other beats: none is as cheap and as good, and better in one.

    Cheapest first. Equal points stay together.
    """
    beaten = [any(x <= a and y >= b and (x < a or y > b) for x, y in points) for a, b in points]
    return sorted((i for i, lost in enumerate(beaten) if not lost), key=lambda i: points[i])


def _pareto(summary: EvaluationSummary, price: str) -> Plot | None:
    name, what = _PRICES[price]
    for gain in _GAINS:
        found = {
            i: (x, y)
            for i, s in enumerate(summary.systems)
            if (x := _spot(s.metrics.get(price))) is not None and (y := _spot(s.metrics.get(gain))) is not None
        }
        if len(found) > 1:
            break
    else:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 4.4), layout="constrained")
        axes = figure.subplots()
        best = frontier([(x.value, y.value) for x, y in found.values()])
        spots = list(found.values())
        line = [(spots[i][0].value, spots[i][1].value) for i in best]
        axes.plot([x for x, _ in line], [y for _, y in line], color=GRID, linewidth=3, drawstyle="steps-post", zorder=1)
        for i, (x, y) in found.items():
            axes.errorbar(
                [x.value],
                [y.value],
                xerr=[[x.value - x.low], [x.high - x.value]],
                yerr=[[y.value - y.low], [y.high - y.value]],
                fmt=MARKERS[i % len(MARKERS)],
                color=SERIES[i % NUM_SERIES],
                elinewidth=1,
                label=summary.systems[i].title,
            )
        unit = info(price).unit
        axes.set(xlabel=info(price).label + (", nats a token" if unit == "nats" else ""), ylabel=info(gain).label)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.3g} %" if unit == "ratio" else f"{v:.3g}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: number(v, info(gain).unit).replace(".0 %", " %")))
        axes.margins(0.08)
        figure.legend(loc="outside lower center", ncols=2)
    missing = [s.title for i, s in enumerate(summary.systems) if i not in found]
    absent = f" Without both figures, so not here: {', '.join(missing)}." if missing else ""
    text = (
        "Up and to the left is better; bars are 95 % intervals, of both axes where both are estimated. The grey line joins the "
        f"systems that no other beats on both by its values alone: where bars overlap, that order was not shown.{absent}"
    )
    return Plot(name, f"{_GAINS[gain]} against {what}", text, figure)


def _spot(metric: MetricValue | None) -> Spot | None:
    """Return a metric as a place on an axis, None where it has no headline."""
    if metric is None or metric.value is None:
        return None
    low = metric.value if metric.low is None else min(metric.low, metric.value)
    high = metric.value if metric.high is None else max(metric.high, metric.value)
    return Spot(low, metric.value, high)
