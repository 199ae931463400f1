"""How results are drawn: a bar for each contender's median, and a point for each of its rounds.

python -m benchmarks.speed.plots benchmarks/speed/results/training_step.json

Draws the SVG beside the file again, from what the file says and nothing else.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from softguard.core.files import write_atomically
from softguard.reports.drawing import INK, SERIES, STYLE

MEASURES = {"seconds": "seconds", "peak_mib": "peak memory above the model, MiB"}
"""Keys under which a result has a list of figures for each contender; the first that it has is drawn."""
OURS, NAMES = "softguard", {"peft": "PEFT", "trl": "TRL", "gkd": "GKD", "lora": "LoRA"}
OTHERS, ACCENT = SERIES[0], SERIES[1]


def bars(found: Mapping[str, Any]) -> Figure | None:
    """Return the bars of a result, None where it has no list of figures for each contender."""
    key = next((key for key in MEASURES if key in found), None)
    if key is None:
        return None
    rounds: Mapping[str, Sequence[float]] = found[key]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.8, 1.1 + 0.34 * len(rounds)), layout="constrained")
        axes = figure.subplots()
        for row, (name, values) in enumerate(rounds.items()):
            middle = median(values)
            axes.barh(row, middle, 0.62, color=ACCENT if name.startswith(OURS) else OTHERS, alpha=0.75)
            axes.plot(values, [row] * len(values), "o", color=INK, markersize=2.5, clip_on=False)
            axes.annotate(f"{middle:.3g}", (max(values), row), (5, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(rounds)), [label(name) for name in rounds])
        axes.set(xlabel=MEASURES[key], ylim=(len(rounds) - 0.4, -0.6))
        axes.set_xlim(0, 1.12 * max(max(values) for values in rounds.values()))
        axes.grid(visible=False, axis="y")
        figure.suptitle(made_on(found), fontsize=8)
    return figure


def label(name: str) -> str:
    """Return the name of a contender as it is read."""
    return " ".join(NAMES.get(word, word) for word in name.split("_"))


def made_on(found: Mapping[str, Any]) -> str:
    """Return the processor and the versions that made a result, in a line."""
    hardware, versions = found["hardware"], found["versions"]
    program = ", ".join(f"{name} {number}" for name, number in versions.items() if name != OURS)
    return f"{hardware['processor']}, {hardware['threads']} threads; {program}"


def save(figure: Figure, path: Path) -> None:
    """Write an SVG in the light colours; the same figure gives the same bytes."""

    def write(partial: Path) -> None:
        with matplotlib.rc_context(STYLE):
            figure.savefig(partial, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, write)


def main() -> None:
    """Read, draw, write."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("result", type=Path, help="what a benchmark wrote")
    path = options.parse_args().result
    figure = bars(json.loads(path.read_text(encoding="utf-8")))
    if figure is None:
        options.error(f"{path} has none of {', '.join(MEASURES)}")
    save(figure, path.with_suffix(".svg"))


if __name__ == "__main__":
    main()
