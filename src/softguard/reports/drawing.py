"""How all plots of a page are drawn: matplotlib with placeholder colours, which are then replaced by CSS variables.

So one drawing follows the page into light and dark; text stays text. A series is told by its dash and marker as well as by
its colour. The same figure gives the same bytes. Must not import pyplot, which keeps state between figures.
See docs/decisions/0003-report-plots.md.
"""

import io
import re
from typing import Any

from matplotlib.figure import Figure

NUM_SERIES = 6
"""Colours that the style sheet has (`--series-0` ...); later systems start again with another dash."""

INK, MUTED, GRID = "#010101", "#020202", "#030303"
SERIES = [f"#10000{i}" for i in range(NUM_SERIES)]
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


def svg(figure: Figure, name: str, legend: bool = False) -> str:
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
