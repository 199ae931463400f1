"""How all plots are drawn: matplotlib in the colours of the light page, which in the page are replaced by CSS variables.

So one drawing follows the page into light and dark, and is a file of its own as it stands; text stays
text. A series is told by its dash and marker as well as by its colour. The same figure gives the same bytes. Must not import
pyplot, which keeps state between figures.
See docs/decisions/0003-report-plots.md.
"""

import io
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from softguard.core.files import write_atomically

NUM_SERIES = 6
"""Colours that the style sheet has (`--series-0` ...); later systems start again with another dash."""

_SHORT_LABEL, _LINE = 28, 0.17
"""Longer labels, in characters, have a legend of one column; inches that each line beyond the third adds to the drawing."""

INK, MUTED, GRID = "#1b1f24", "#59636e", "#d5dae0"
SERIES = ["#59636f", "#c2410c", "#0a6fb8", "#8a3f86", "#0b7a55", "#7a6400"]
"""The style sheet's light palette: each colour once, so that it names its variable (`report.css`; a test compares them)."""

_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line"} | {c: f"--series-{i}" for i, c in enumerate(SERIES)}
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "softguard",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Plot:
    """A finished drawing: `name` is its id in the page and its file's name, `title` and `text` stand below it."""

    name: str
    title: str
    text: str
    figure: Figure

    def inline(self) -> str:
        """Return the drawing as an element of a page, in the page's colours."""
        with matplotlib.rc_context(STYLE):
            return svg(self.figure, self.name)

    def write(self, folder: Path) -> list[Path]:
        """Write `NAME.svg` and `NAME.png` in the light colours and return both paths."""
        paths = [folder / f"{self.name}.{kind}" for kind in ("svg", "png")]
        for path in paths:
            write_atomically(path, lambda partial, kind=path.suffix[1:]: self._save(partial, kind))  # type: ignore[misc]
        return paths

    def _save(self, path: Path, kind: str) -> None:
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        with matplotlib.rc_context(STYLE):
            self.figure.savefig(path, format=kind, facecolor="white", dpi=200, metadata=metadata)


def svg(figure: Figure, name: str, legend: bool = False) -> str:
    """Return the figure as an `<svg>` element that scales, takes the page's colours and has ids of its own."""
    if legend:
        labels = [label for axes in figure.axes for label in axes.get_legend_handles_labels()[1]]
        columns = 1 if max(map(len, labels), default=0) > _SHORT_LABEL else 2
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, height + _LINE * max(0, math.ceil(len(labels) / columns) - 3))
        figure.legend(loc="outside lower center", ncols=columns, handlelength=2.6)
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
