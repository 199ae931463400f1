"""A study's table in the terminal and as a page with its curves: views of `results.parquet` that hold no figure of their own.

A series is the cells that agree in every varied setting but the one on the axis and the seed; it is drawn through the mean of
its seeds, each seed a dot, and with the interval of each cell where there is one seed. Along the learning rate the curves are
those of the paper's figures 4 and 5, along the size of W those of figure 7, by seed those of figure 11. Harmful prompts are in no
column of that table.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from softguard.core.files import write_atomically
from softguard.reports.drawing import DASHES, MARKERS, NUM_SERIES, SERIES, STYLE, svg
from softguard.reports.html import page_environment

Row = Mapping[str, Any]
SEED = "training.seed"
_PLAIN = ("objective.kind", "adapter.kind", "study.name")
"""Settings whose value says enough without their name."""
_AXES = {
    "training.learning_rate": ("learning rate", True),
    "adapter.num_virtual_tokens": ("virtual tokens", True),
    "training.steps": ("steps", False),
}
"""Settings that a curve can run along, with their label and whether their axis is logarithmic."""
_ALONG = ("validation_auc", "refusal_auc", "refusal_rate", "over_refusal_rate", "validation_drift", "benign_drift")
"""Figures that are drawn along an axis."""
_BY_SEED = ("refusal_auc", "validation_auc", "refusal_rate", "over_refusal_rate")
_FIGURES = {
    "validation_score": "validation score",
    "validation_auc": "validation AUC",
    "validation_drift": "validation drift, nats",
    "refusal_auc": "test AUC",
    "refusal_rate": "harmful refused",
    "over_refusal_rate": "benign refused",
    "benign_drift": "test drift, nats",
    "num_parameters": "numbers learned",
}
"""Columns that are shown, best first."""


def study_table(rows: Sequence[Row]) -> Table:
    """Return the cells, best validation score first, those that failed at the end with what went wrong."""
    varied, figures = _varied(rows), [name for name in _FIGURES if any(r.get(name) is not None for r in rows)]
    table = Table(title=Text(f"Study: {len(rows)} cells, chosen by validation score"), title_justify="left")
    for name in ("cell", *varied):
        table.add_column(Text(name.rpartition(".")[2].replace("_", " ")))
    for name in figures:
        table.add_column(Text(_FIGURES[name]), justify="right")
    for row in _ranked(rows):
        shown = [Text(_number(row.get(name))) for name in ("cell", *varied)]
        if row["status"] == "done":
            table.add_row(*shown, *(Text(_number(row.get(name))) for name in figures))
        else:
            table.add_row(*shown, Text(f"failed: {row['error']}"[:60]), *[""] * (len(figures) - 1))
    return table


def write_study_page(rows: Sequence[Row], path: Path) -> None:
    """Write the page: plots, then the table; self-contained, light and dark."""
    environment = page_environment()
    environment.filters["number"] = _number
    page = environment.get_template("study.html.j2").render(
        rows=_ranked(rows),
        varied=_varied(rows),
        figures={k: v for k, v in _FIGURES.items() if any(r.get(k) is not None for r in rows)},
        plots=[(title, Markup(drawn)) for title, drawn in study_plots(rows)],
    )
    write_atomically(path, page)


def study_plots(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return titled SVGs: each figure along each varied axis and by seed, safety against over-refusal, and AUC against drift."""
    done = [r for r in rows if r["status"] == "done"]
    varied = _varied(done)
    out = []
    with matplotlib.rc_context(STYLE):
        for axis in (a for a in _AXES if a in varied):
            for figure in _ALONG:
                if drawn := _curve(done, axis, figure, varied):
                    out.append((f"{_FIGURES[figure]} by {_AXES[axis][0]}", drawn))
        for figure in _BY_SEED:
            if drawn := _seeds(done, figure, varied):
                out.append((f"{_FIGURES[figure]} by seed", drawn))
        pairs = (("over_refusal_rate", "refusal_rate"), ("benign_drift", "refusal_auc"), ("validation_drift", "validation_auc"))
        for x, y in pairs:
            if drawn := _scatter(done, x, y, varied):
                out.append((f"{_FIGURES[y]} against {_FIGURES[x]}", drawn))
    return out


def _curve(rows: Sequence[Row], axis: str, figure: str, varied: Sequence[str]) -> str | None:
    usable = [r for r in rows if r.get(figure) is not None and isinstance(r.get(axis), int | float)]
    if len({r[axis] for r in usable}) < 2:
        return None
    drawing = Figure(figsize=(4.8, 4.2), layout="constrained")
    axes = drawing.subplots()
    for i, (name, members) in enumerate(_series(usable, [v for v in varied if v not in (axis, SEED)]).items()):
        places = sorted({r[axis] for r in members})
        means = [_mean([r[figure] for r in members if r[axis] == place]) for place in places]
        colour = SERIES[i % NUM_SERIES]
        dash, marker = DASHES[i % len(DASHES)], MARKERS[i % len(MARKERS)]
        axes.plot(places, means, color=colour, label=name, linestyle=dash, marker=marker)
        bars = _bars(members, figure)
        if len(members) == len(places) and bars is not None:
            at = [r[axis] for r in members]
            axes.errorbar(at, [r[figure] for r in members], yerr=bars, fmt="none", ecolor=colour, elinewidth=0.6)
        elif len(members) > len(places):
            axes.plot([r[axis] for r in members], [r[figure] for r in members], ".", color=colour, markersize=4)
    label, logarithmic = _AXES[axis]
    axes.set(xlabel=label, ylabel=_FIGURES[figure], xscale="log" if logarithmic else "linear")
    return svg(drawing, f"{axis}-{figure}".replace(".", "-"), legend=True)


def _seeds(rows: Sequence[Row], figure: str, varied: Sequence[str]) -> str | None:
    """Return each series' seeds side by side with their intervals and, as a bar, their mean; nothing where none has two seeds."""
    usable = [r for r in rows if r.get(figure) is not None]
    series = {k: v for k, v in _series(usable, [v for v in varied if v != SEED]).items() if len({r.get(SEED) for r in v}) > 1}
    if not series:
        return None
    drawing = Figure(figsize=(4.8, 4.2), layout="constrained")
    axes = drawing.subplots()
    for place, (name, members) in enumerate(series.items()):
        colour = SERIES[place % NUM_SERIES]
        at = [place + 0.5 * (i / (len(members) - 1) - 0.5) for i in range(len(members))]
        values, marker = [r[figure] for r in members], MARKERS[place % len(MARKERS)]
        axes.errorbar(at, values, yerr=_bars(members, figure), fmt=marker, color=colour, elinewidth=0.6, label=name)
        axes.hlines(_mean(values), place - 0.35, place + 0.35, colors=colour, linewidth=1.0)
    axes.set(ylabel=_FIGURES[figure], xticks=[])
    return svg(drawing, f"seeds-{figure}", legend=True)


def _scatter(rows: Sequence[Row], x: str, y: str, varied: Sequence[str]) -> str | None:
    usable = [r for r in rows if r.get(x) is not None and r.get(y) is not None]
    if len(usable) < 2:
        return None
    drawing = Figure(figsize=(4.8, 4.2), layout="constrained")
    axes = drawing.subplots()
    for i, (name, members) in enumerate(_series(usable, [v for v in varied if v not in (*_AXES, SEED)]).items()):
        axes.errorbar(
            [r[x] for r in members],
            [r[y] for r in members],
            xerr=_bars(members, x),
            yerr=_bars(members, y),
            fmt=MARKERS[i % len(MARKERS)],
            color=SERIES[i % NUM_SERIES],
            elinewidth=0.6,
            label=name,
        )
    axes.set(xlabel=_FIGURES[x], ylabel=_FIGURES[y])
    return svg(drawing, f"{x}-{y}", legend=True)


def _bars(rows: Sequence[Row], name: str) -> list[list[float]] | None:
    """Return the distances to the ends of the 95 % intervals, None where a row has none."""
    ends = [(r.get(f"{name}_low"), r[name], r.get(f"{name}_high")) for r in rows]
    if any(low is None or high is None for low, _, high in ends):
        return None
    return [[max(0.0, v - low) for low, v, _ in ends], [max(0.0, high - v) for _, v, high in ends]]


def _series(rows: Sequence[Row], by: Sequence[str]) -> dict[str, list[Row]]:
    out: dict[str, list[Row]] = {}
    for row in rows:
        parts = [
            _number(row.get(name)) if name in _PLAIN else f"{name.rpartition('.')[2]} {_number(row.get(name))}" for name in by
        ]
        out.setdefault(", ".join(parts) or "all cells", []).append(row)
    return out


def _varied(rows: Sequence[Row]) -> list[str]:
    """Return the settings in which the rows differ, in the order of the table."""
    names = dict.fromkeys(name for row in rows for name in row if "." in name)
    return [name for name in names if len({repr(row.get(name)) for row in rows}) > 1]


def _ranked(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda r: (r["status"] != "done", -(r.get("validation_score") or -math.inf)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
