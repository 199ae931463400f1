"""Bars with intervals: attack success by the way of asking, and rates by category of prompt; a bar for each system."""

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from softguard.evaluation.results import ANY_WRAPPER, CategoryRate, EvaluationSummary, MetricValue, metric_name
from softguard.reports.drawing import INK, NUM_SERIES, SERIES, STYLE, Plot
from softguard.reports.wording import info

MAX_GROUPS = 20
"""More categories than these would not be read; the largest are drawn, and the caption says how many are not."""

Rates = Mapping[str, Mapping[str, MetricValue]]
"""By group, then by system."""


def wrapper_bars(summary: EvaluationSummary, prefix: str = "") -> Plot | None:
    """Return the first judge's attack success for each way of asking; None where nothing was asked in more than one way."""
    name = "attack_success_rate"
    asked = [n for n in summary.metric_names() if n == name or n.startswith(f"{name}:")]
    if len(asked) < 2:
        return None
    rates = {_way(n): {s.system: s.metrics[n] for s in summary.systems if n in s.metrics} for n in asked}
    last = _way(metric_name(name, wrapper=ANY_WRAPPER))
    ordered = {k: v for k, v in rates.items() if k != last} | {k: v for k, v in rates.items() if k == last}
    text = f"{info(name, summary).definition} By how they were asked; 95 % intervals."
    return _bars(summary, ordered, Plot(f"{prefix}wrappers", f"{info(name, summary).label} by the way of asking", text, Figure()))


def category_bars(summary: EvaluationSummary, prefix: str = "") -> list[Plot]:
    """Return a plot for each metric that was measured by category."""
    out = []
    for metric in dict.fromkeys(c.metric for c in summary.categories):
        of = [c for c in summary.categories if c.metric == metric]
        rates = {c: {x.system: x.value for x in of if x.category == c} for c in _largest(of)}
        left = len({c.category for c in of}) - len(rates)
        rest = f" The {left} smallest categories are left out." if left else ""
        text = f"95 % intervals; within a category its prompts are taken as independent, which flatters them.{rest}"
        name = f"{prefix}category-{metric.replace('_', '-')}"
        plot = _bars(summary, rates, Plot(name, f"{info(metric, summary).label} by category", text, Figure()))
        out += [plot] if plot else []
    return out


def _bars(summary: EvaluationSummary, rates: Rates, plot: Plot) -> Plot | None:
    systems = [s for s in summary.systems if any(s.system in of for of in rates.values())]
    if not systems:
        return None
    width = 0.8 / len(systems)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 1.2 + len(rates) * max(0.34, 0.17 * len(systems))), layout="constrained")
        axes = figure.subplots()
        for k, system in enumerate(systems):
            colour = SERIES[summary.systems.index(system) % NUM_SERIES]
            label = system.title
            for row, of in enumerate(rates.values()):
                metric = of.get(system.system)
                if metric is None or metric.value is None:
                    continue
                at, value = row + (k + 0.5) * width - 0.4, metric.value
                axes.barh(at, value, width * 0.85, color=colour, label=label)
                label = "_nolegend_"
                if metric.low is not None and metric.high is not None:
                    low, high = min(metric.low, value), max(metric.high, value)
                    axes.errorbar([value], [at], xerr=[[value - low], [high - value]], fmt="none", ecolor=INK, elinewidth=0.8)
        names = [f"{name} ({n})" if (n := _count(of)) else name for name, of in rates.items()]
        axes.set_yticks(range(len(rates)), names)
        axes.set(xlim=(0, 1), ylim=(len(rates) - 0.5, -0.5))
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        figure.legend(loc="outside lower center", ncols=2)
    return Plot(plot.name, plot.title, f"{plot.text} In brackets: prompts.", figure)


def _way(name: str) -> str:
    wrapper = name.partition(":")[2]
    return "some way of asking" if wrapper == ANY_WRAPPER else wrapper.replace("_", " ") or "plain"


def _count(of: Mapping[str, MetricValue]) -> int:
    return max((m.n + m.ungraded for m in of.values()), default=0)


def _largest(of: Sequence[CategoryRate]) -> list[str]:
    """Return the categories with most prompts, in the order in which they were measured."""
    size: dict[str, int] = {}
    for c in of:
        size[c.category] = max(size.get(c.category, 0), c.value.n + c.value.ungraded)
    kept = set(sorted(size, key=lambda name: -size[name])[:MAX_GROUPS])
    return [name for name in size if name in kept]
