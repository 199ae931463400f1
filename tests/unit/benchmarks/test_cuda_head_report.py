"""The plot and the table are of the committed figures, and the page that shows them is theirs."""

import json
from copy import deepcopy
from pathlib import Path

import pytest

from benchmarks.speed import cuda_head_report

RESULTS = Path(cuda_head_report.__file__).parent / "results"
FOUND = json.loads((RESULTS / "cuda_head.h200.json").read_text(encoding="utf-8"))


def test_a_line_has_the_figures_of_its_contender_in_order():
    shown = cuda_head_report.points(FOUND, "smollm2", "liger", "peak_mib")
    assert shown == {n: FOUND["compare"][f"smollm2_{n}_bf16"]["liger"]["peak_mib"] for n in (320, 1280, 4096, 16384)}
    lines = cuda_head_report.plot(FOUND).axes[2].get_lines()  # memory, SmolLM2
    assert list(lines[list(cuda_head_report.CONTENDERS).index("liger")].get_ydata()) == list(shown.values())


def test_what_failed_has_no_mark_and_a_dash():
    assert 16_384 not in cuda_head_report.points(FOUND, "gemma3-270m", "plain", "ms")
    broken = deepcopy(FOUND)
    for rows in broken["compare"].values():
        rows["liger_chunked"] = {"error": "out of memory"}
    assert cuda_head_report.points(broken, "smollm2", "liger_chunked", "ms") == {}
    assert all(line.endswith("| – |") for line in cuda_head_report.table(broken).splitlines()[2:])
    ticks = cuda_head_report.plot(broken).axes[0].get_xticks()
    assert list(ticks) == [320, 1280, 4096, 16384]


def test_the_page_shows_the_committed_figures():
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert cuda_head_report.table(FOUND) in page
    made_by = FOUND["made_by"]
    assert all(made_by[key] in page for key in ("commit", "date"))


@pytest.mark.parametrize("name", [p.name for p in RESULTS.glob("cuda_head.*.svg")])
def test_the_plot_names_every_contender(name):
    drawn = (RESULTS / name).read_text(encoding="utf-8")
    assert [label for label in cuda_head_report.CONTENDERS.values() if f">{label}<" not in drawn] == []
