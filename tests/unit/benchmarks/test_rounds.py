"""Contenders take turns, what warms up is not counted, and a result is written with its drawing."""

import json

import pytest

from benchmarks.speed import rounds
from benchmarks.speed.rounds import ratio, timed_rounds

SECONDS = {"peft_fp32": [4.0, 6.0, 9.0], "softguard_fp32": [2.0, 2.0, 3.0]}


def test_every_round_begins_with_another_contender_and_the_first_is_not_counted():
    ran = []
    seconds = timed_rounds({name: lambda name=name: ran.append(name) for name in "abc"}, 2)
    assert "".join(ran) == "abc" + "bca" + "cab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2, "c": 2}


def test_a_warm_up_of_its_own_stands_in_for_the_first_round():
    ran = []
    seconds = timed_rounds({"a": lambda: ran.append("a")}, 3, warm_up=lambda: ran.append("warm"))
    assert ran == ["warm", "a", "a", "a"]
    assert len(seconds["a"]) == 3


def test_a_ratio_is_the_median_over_paired_rounds():
    assert ratio(SECONDS, "peft_fp32", "softguard_fp32") == 3.0
    assert ratio(SECONDS, "peft_bf16", "softguard_fp32") is None


def test_without_bf16_ours_is_float32():
    assert rounds.own_dtype(without_bf16=True) == "fp32"


@pytest.mark.parametrize("only_json", [True, False])
def test_a_result_is_printed_and_written_with_its_bars(tmp_path, monkeypatch, capsys, only_json):
    monkeypatch.setattr(rounds, "OUT", tmp_path / "results")
    rounds.publish("step", rounds.result(SECONDS, ratio_vs_trl=None), only_json=only_json)
    printed = json.loads(capsys.readouterr().out)
    assert printed["seconds"] == SECONDS
    assert printed["ratio_vs_trl"] is None
    assert printed["median_seconds"] == {"peft_fp32": 6.0, "softguard_fp32": 2.0}
    written = sorted(p.name for p in (tmp_path / "results").glob("*"))
    assert written == ([] if only_json else ["step.json", "step.svg"])
