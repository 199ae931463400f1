"""A drawing shows every round of every contender, and says on what it was made."""

import json
import sys

import pytest

from benchmarks.speed import plots

FOUND = {
    "seconds": {"peft_fp32": [4.0, 6.0, 9.0], "softguard_lora_fp32": [2.0, 2.5, 3.0]},
    "hardware": {"processor": "A Processor", "threads": 2},
    "versions": {"softguard": "0.1.0", "torch": "2.13.0"},
}


def test_a_bar_is_the_median_and_every_round_has_a_point():
    axes = plots.bars(FOUND).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [6.0, 2.5]
    assert [sorted(line.get_xdata()) for line in axes.get_lines()] == [[4.0, 6.0, 9.0], [2.0, 2.5, 3.0]]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["PEFT fp32", "softguard LoRA fp32"]
    assert axes.get_xlim()[1] > 9.0


def test_memory_is_drawn_where_there_are_no_seconds():
    found = {**FOUND, "peak_mib": FOUND["seconds"]}
    assert plots.bars(found).axes[0].get_xlabel() == "seconds"
    del found["seconds"]
    assert plots.bars(found).axes[0].get_xlabel() == "peak memory above the model, MiB"


def test_a_result_without_rounds_has_no_bars():
    assert plots.bars({"steps": []}) is None


def test_it_says_what_made_it():
    assert plots.made_on(FOUND) == "A Processor, 2 threads; torch 2.13.0"


def test_the_command_draws_the_same_file_again(tmp_path, monkeypatch):
    path = tmp_path / "step.json"
    path.write_text(json.dumps(FOUND))
    monkeypatch.setattr(sys, "argv", ["plots", str(path)])
    plots.main()
    first = path.with_suffix(".svg").read_bytes()
    assert b"softguard LoRA fp32" in first
    plots.main()
    assert path.with_suffix(".svg").read_bytes() == first
    path.write_text("{}")
    with pytest.raises(SystemExit):
        plots.main()
