"""What `cuda_head` measured, as a plot and a table: time and peak memory by positions, for each vocabulary and contender.

python -m benchmarks.speed.cuda_head_report benchmarks/speed/results/cuda_head.h200.json

Writes an SVG beside the file, bf16 alone, and prints the table of its README. A contender that failed, which is by running out
of memory, has no mark in the one and a dash in the other.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from benchmarks.speed.plots import save
from softguard.reports.drawing import DASHES, MARKERS, SERIES, STYLE

HEADS = {"smollm2": "SmolLM2: 49,152 tokens, width 576", "gemma3-270m": "Gemma 3 270M: 262,144 tokens, width 640"}
CONTENDERS = {
    "triton": "our kernels",
    "triton_on_library_products": "our kernels on a library's products",
    "chunked": "our chunks in PyTorch",
    "plain": "all logits, plain PyTorch",
    "liger": "Liger-Kernel, Triton op",
    "liger_chunked": "Liger-Kernel, chunks, not compiled",
}
COLOURS = (1, 5, 3, 0, 2, 4)
"""Places in `SERIES`; the accent is ours, the grey is what there was."""
MEASURES = {"ms": "ms, forwards and backwards", "peak_mib": "peak memory, MiB"}


def points(found: Mapping[str, Any], head: str, contender: str, measure: str) -> dict[int, float]:
    """Return the bf16 figures by positions, without those of runs that failed."""
    cases = {count: rows[contender] for (name, count, dtype), rows in _cases(found).items() if (name, dtype) == (head, "bf16")}
    return {count: row[measure] for count, row in cases.items() if measure in row}


def table(found: Mapping[str, Any]) -> str:
    """Return median time and peak memory of every case in Markdown, a column for each contender."""
    lines = [["head", "positions", "type", *CONTENDERS.values()], ["---"] * (3 + len(CONTENDERS))]
    for (head, count, dtype), rows in _cases(found).items():
        lines.append([HEADS[head].split(":")[0], f"{count:,}", dtype, *(_cell(rows[name]) for name in CONTENDERS)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(row: Mapping[str, Any]) -> str:
    if "ms" not in row:
        return "–"
    ms = f"{row['ms']:.3g}" if row["ms"] < 100 else f"{row['ms']:,.0f}"
    return f"{ms} ms, {row['peak_mib']:,.0f} MiB"


def _cases(found: Mapping[str, Any]) -> dict[tuple[str, int, str], Mapping[str, Any]]:
    parts = {name: name.split("_") for name in found["compare"]}
    return {(head, int(count), dtype): found["compare"][name] for name, (head, count, dtype) in parts.items()}


def plot(found: Mapping[str, Any]) -> Figure:
    """Return the drawing."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 6.6), layout="constrained")
        grid = figure.subplots(len(MEASURES), len(HEADS), sharex=True, sharey="row")
        counts = sorted({count for _, count, dtype in _cases(found) if dtype == "bf16"})
        for line, (measure, label) in zip(grid, MEASURES.items(), strict=True):
            line[0].set_ylabel(label)
            for axes, head in zip(line, HEADS, strict=True):
                for i, contender in enumerate(CONTENDERS):
                    shown = points(found, head, contender, measure)
                    axes.plot(
                        list(shown),
                        list(shown.values()),
                        DASHES[i % len(DASHES)],
                        color=SERIES[COLOURS[i]],
                        marker=MARKERS[i],
                        markersize=4,
                        label=CONTENDERS[contender] if measure == "ms" and head == next(iter(HEADS)) else None,
                    )
                axes.set(xscale="log", yscale="log", xticks=counts, xticklabels=[f"{count:,}" for count in counts])
                axes.minorticks_off()
        for axes, title in zip(grid[0], HEADS.values(), strict=True):
            axes.set_title(title, fontsize=9)
        for axes in grid[-1]:
            axes.set_xlabel("positions")
        device = found["machine"]["device"]
        versions = ", ".join(f"{name} {number}" for name, number in device["versions"].items())
        figure.suptitle(f"Head, Jensen-Shannon divergence and gradient on an {device['name']}, bf16 ({versions})", fontsize=9)
        figure.legend(loc="outside lower center", ncols=3, handlelength=2.6)
    return figure


def main() -> None:
    """Read, draw, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("result", type=Path, help="what `cuda_head --json` wrote")
    path = options.parse_args().result
    found = json.loads(path.read_text(encoding="utf-8"))
    save(plot(found), path.with_suffix(".svg"))
    print(table(found))


if __name__ == "__main__":
    main()
