"""A study's table in the terminal and as a page with its curves: views of `results.parquet` that hold no figure of their own.

A series is the cells that agree in every varied setting but the one on the axis and the seed. It is drawn where it has two places
on the axis, through the mean of its seeds; several seeds of a place are dots side by side, and each cell shows the interval it
has. Along the learning rate the curves are those of the paper's figures 4 and 5; along the size of W, each size at the learning
rate that validation prefers for it, those of figure 7; by seed those of figure 11. Systems that the cells share (status `shared`)
are shown and take part in no choice. Harmful prompts are in no column of that table.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation
from rich.table import Table
from rich.text import Text

from softguard.core.files import write_atomically
from softguard.reports.drawing import DASHES, INK, MARKERS, NUM_SERIES, SERIES, STYLE, svg
from softguard.reports.html import page_environment

Row = Mapping[str, Any]
SEED = "training.seed"
_RATE = "training.learning_rate"
_PLAIN = ("objective.kind", "adapter.kind", "study.name", "system")
"""Columns whose value says enough without their name."""
_AXES = {
    _RATE: ("learning rate", True),
    "adapter.num_virtual_tokens": ("virtual tokens", True),
    "num_parameters": ("numbers learned", True),
    "training.steps": ("steps", False),
}
"""Columns that a curve can run along, with their label and whether their axis is logarithmic."""
_OTHER_SIZES = ("adapter.rank", "adapter.num_positions")
_SIZES = ("adapter.num_virtual_tokens", *_OTHER_SIZES)
"""Settings that say how much is learned."""
_SHARED_MARKERS = ("x", "+", "*")
"""Those of systems that the cells share; no series has them."""
_ALONG = ("validation_auc", "refusal_auc", "refusal_rate", "over_refusal_rate", "validation_drift", "benign_drift")
"""Figures that are drawn along an axis."""
_BY_SEED = ("refusal_auc", "validation_auc", "refusal_rate", "over_refusal_rate")
_PAIRS = (
    ("over_refusal_rate", "refusal_rate"),
    ("benign_drift", "refusal_rate"),
    ("benign_drift", "refusal_auc"),
    ("validation_drift", "validation_auc"),
)
"""Figures that are drawn against each other: what safety costs, then safety."""
_APART = 3.0
"""Points between the dots of two seeds at one place."""
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
    """Return the shared systems, then the cells, best validation score first, those that failed last with what went wrong."""
    cells, figures = _cells(rows), [name for name in _FIGURES if any(r.get(name) is not None for r in rows)]
    varied = _varied(cells)
    table = Table(title=Text(f"Study: {len(cells)} cells, chosen by validation score"), title_justify="left")
    for name in ("cell", *varied):
        table.add_column(Text(name.rpartition(".")[2].replace("_", " ")))
    for name in figures:
        table.add_column(Text(_FIGURES[name]), justify="right")
    for row in _ranked(rows):
        shown = [Text(_number(value)) for value in (row.get("cell") or row.get("system"), *map(row.get, varied))]
        if row["status"] == "failed":
            table.add_row(*shown, Text(f"failed: {row['error']}"[:60]), *[""] * (len(figures) - 1))
        else:
            table.add_row(*shown, *(Text(_number(row.get(name))) for name in figures))
    return table


def write_study_page(rows: Sequence[Row], path: Path) -> None:
    """Write the page: plots, then the table; self-contained, light and dark."""
    environment = page_environment()
    environment.filters["number"] = _number
    page = environment.get_template("study.html.j2").render(
        rows=_ranked(rows),
        num_cells=len(_cells(rows)),
        varied=_varied(_cells(rows)),
        figures={k: v for k, v in _FIGURES.items() if any(r.get(k) is not None for r in rows)},
        plots=[(title, Markup(drawn)) for title, drawn in study_plots(rows)],
    )
    write_atomically(path, page)


def study_plots(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return titled SVGs: each figure along each varied axis and by seed, and safety against over-refusal and drift.

    Numbers learned are an axis where another size than that of a soft prompt varies.
    """
    done, shared = ([r for r in rows if r["status"] == status] for status in ("done", "shared"))
    varied = _varied(done)
    sizes = {"num_parameters"} if set(_OTHER_SIZES) & set(varied) else set()
    out = []
    with matplotlib.rc_context(STYLE):
        for axis in (a for a in _AXES if a in {*varied, *sizes}):
            for figure in _ALONG:
                if drawn := _curve(done, axis, figure, varied):
                    out.append((f"{_FIGURES[figure]} by {_AXES[axis][0]}", drawn))
        for figure in _BY_SEED:
            if drawn := _seeds(done, figure, varied):
                out.append((f"{_FIGURES[figure]} by seed", drawn))
        for x, y in _PAIRS:
            if drawn := _scatter(done, shared, x, y, varied):
                out.append((f"{_FIGURES[y]} against {_FIGURES[x]}", drawn))
    return out


def _curve(rows: Sequence[Row], axis: str, figure: str, varied: Sequence[str]) -> str | None:
    series = _along(rows, axis, figure, varied)
    if not series:
        return None
    drawing = Figure(figsize=(4.8, 4.2), layout="constrained")
    axes = drawing.subplots()
    for i, (name, places) in enumerate(series.items()):
        means = [_mean([r[figure] for r in of]) for of in places.values()]
        colour = SERIES[i % NUM_SERIES]
        dash, marker = DASHES[i % len(DASHES)], MARKERS[i % len(MARKERS)]
        axes.plot(list(places), means, color=colour, label=name, linestyle=dash, marker=marker)
        most = max(map(len, places.values()))
        for k in range(most):
            nth = [of[k] for of in places.values() if k < len(of)]
            aside = ScaledTranslation(_APART / 72 * (k - (most - 1) / 2), 0, drawing.dpi_scale_trans)
            axes.errorbar(
                [r[axis] for r in nth],
                [r[figure] for r in nth],
                yerr=_bars(nth, figure),
                fmt="." if most > 1 else "none",
                color=colour,
                ecolor=colour,
                elinewidth=0.6,
                markersize=4,
                transform=axes.transData + aside,
            )
            ends = [(r[axis], r.get(f"{figure}_{end}")) for r in nth for end in ("low", "high")]
            axes.update_datalim([(x, y) for x, y in ends if y is not None] or [(r[axis], r[figure]) for r in nth])
    axes.autoscale_view()  # a shifted interval does not widen the axes by itself
    label, logarithmic = _AXES[axis]
    axes.set(xlabel=label, ylabel=_FIGURES[figure], xscale="log" if logarithmic else "linear")
    if logarithmic:
        at = sorted({place for places in series.values() for place in places})
        axes.set_xticks(at, [_number(float(place)) for place in at])
        axes.set_xticks([], minor=True)
    return svg(drawing, f"{axis}-{figure}".replace(".", "-"), legend=True)


def _along(rows: Sequence[Row], axis: str, figure: str, varied: Sequence[str]) -> dict[str, dict[float, list[Row]]]:
    """Return by series the rows at each place of the axis; along a size, those of the learning rate that validation prefers."""
    of_size = axis in (*_SIZES, "num_parameters")
    free = (*_SIZES, _RATE, SEED) if of_size else (axis, SEED)
    usable = [r for r in rows if isinstance(r.get(axis), int | float)]
    out = {}
    for name, members in _series(usable, [v for v in varied if v not in free]).items():
        places = {}
        for place in sorted({r[axis] for r in members}):
            there = [r for r in members if r[axis] == place]
            if measured := [r for r in (_at_best_rate(there) if of_size else there) if r.get(figure) is not None]:
                places[place] = measured
        if len(places) > 1:
            out[name] = places
    return out


def _at_best_rate(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the learning rate with the best validation score, mean over its seeds."""
    by_rate: dict[Any, list[Row]] = {}
    for row in rows:
        by_rate.setdefault(row.get(_RATE), []).append(row)
    return max(by_rate.values(), key=lambda of: _mean([_score(r) for r in of]))


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


def _scatter(rows: Sequence[Row], shared: Sequence[Row], x: str, y: str, varied: Sequence[str]) -> str | None:
    usable, beside = ([r for r in of if r.get(x) is not None and r.get(y) is not None] for of in (rows, shared))
    if len(usable) < 2:
        return None
    drawing = Figure(figsize=(4.8, 4.2), layout="constrained")
    axes = drawing.subplots()
    series = _series(usable, [v for v in varied if v not in (*_AXES, SEED)])
    looks = [(MARKERS[i % len(MARKERS)], SERIES[i % NUM_SERIES]) for i in range(len(series))]
    systems = _series(beside, ["system", *_varied(shared)])
    looks += [(_SHARED_MARKERS[i % len(_SHARED_MARKERS)], INK) for i in range(len(systems))]
    for (marker, colour), (name, members) in zip(looks, [*series.items(), *systems.items()], strict=True):
        axes.errorbar(
            [r[x] for r in members],
            [r[y] for r in members],
            xerr=_bars(members, x),
            yerr=_bars(members, y),
            fmt=marker,
            color=colour,
            elinewidth=0.6,
            label=name,
        )
    axes.set(xlabel=_FIGURES[x], ylabel=_FIGURES[y])
    return svg(drawing, f"{x}-{y}", legend=True)


def _bars(rows: Sequence[Row], name: str) -> list[list[float]] | None:
    """Return the distances to the ends of the 95 % intervals: NaN, which is not drawn, of a row without; None where all are."""
    ends = [(r.get(f"{name}_low"), r[name], r.get(f"{name}_high")) for r in rows]
    if all(low is None or high is None for low, _, high in ends):
        return None
    unknown = (math.nan, math.nan)
    pairs = [unknown if low is None or high is None else (max(0.0, v - low), max(0.0, high - v)) for low, v, high in ends]
    return [list(side) for side in zip(*pairs, strict=True)]


def _series(rows: Sequence[Row], by: Sequence[str]) -> dict[str, list[Row]]:
    out: dict[str, list[Row]] = {}
    for row in rows:
        parts = [
            _number(row.get(name)) if name in _PLAIN else f"{name.rpartition('.')[2]} {_number(row.get(name))}"
            for name in by
            if row.get(name) is not None
        ]
        out.setdefault(", ".join(parts) or "all cells", []).append(row)
    return out


def _varied(rows: Sequence[Row]) -> list[str]:
    """Return the settings in which the rows differ, in the order of the table."""
    names = dict.fromkeys(name for row in rows for name in row if "." in name)
    return [name for name in names if len({repr(row.get(name)) for row in rows}) > 1]


def _cells(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["status"] != "shared"]


def _ranked(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda r: (("shared", "done", "failed").index(r["status"]), -_score(r)))


def _score(row: Row) -> float:
    score = row.get("validation_score")
    return -math.inf if score is None else float(score)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
