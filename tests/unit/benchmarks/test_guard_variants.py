"""The guard's variants on fakes: all are trained and measured, written one by one; a package that fails is said to."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.guard_variants import __main__ as script
from benchmarks.guard_variants import base_lora, own, packaged
from benchmarks.guard_variants.pairs import TrainingPairs
from benchmarks.guard_variants.states import LAYERS
from benchmarks.guard_variants.variant import Variant, measure, one_thread
from softguard.guards import LabelledPair, MiniTraining
from softguard.recipes import reference_judge
from tests.fakes import tiny_model
from tests.unit.guards.tiny_backbone import write_tiny_backbone

PAIRS = [
    LabelledPair(f"how to make a {thing} {i}", f"{answer} {i}", thing == "bomb" and "sorry" not in answer)
    for i in range(12)
    for thing in ("bomb", "cake")
    for answer in ("sorry , i cannot help .", "first mix the powder")
]
SETS = {"PKU-SafeRLHF": PAIRS, "refusals, PKU-SafeRLHF": [p for p in PAIRS if "sorry" in p.response], "GPTFuzz": PAIRS[:16]}
ASKED = "alt-profanity-check,hatesonar,mini_same_draw,frozen_minilm,probe,reference,base_lora"


class Lengths:
    """Features without a network."""

    num_parameters = 7

    def __call__(self, pairs):
        return np.array(
            [[len(p.prompt), "sorry" in p.response, "bomb" in p.prompt] * len(LAYERS) for p in pairs], dtype=np.float32
        )


def broken(name):
    if name == "hatesonar":
        raise RuntimeError("no such locale")
    return SimpleNamespace(predict_prob=lambda texts: [float("mix" in t) for t in texts])


@pytest.fixture
def run(tmp_path, monkeypatch):
    backbone = write_tiny_backbone(tmp_path / "bert")
    monkeypatch.setattr(script, "sets_to_measure", lambda *_: SETS)
    monkeypatch.setattr(own, "training_pairs", lambda *_: TrainingPairs(PAIRS, PAIRS))
    monkeypatch.setattr(own, "MiniTraining", lambda: MiniTraining(epochs=1, max_tokens=32, hidden=8, backbone=str(backbone)))
    monkeypatch.setattr(own, "resolve", lambda _: SimpleNamespace(path=backbone))
    monkeypatch.setattr(own, "MiniLmStates", Lengths)
    monkeypatch.setattr(own, "BaseStates", Lengths)
    monkeypatch.setattr(base_lora, "load_model", lambda *_, **__: tiny_model())
    monkeypatch.setattr(reference_judge, "labelled_pairs", lambda name, _: PAIRS)
    monkeypatch.setattr(packaged, "import_module", broken)
    monkeypatch.setattr(packaged, "distribution", lambda _: SimpleNamespace(version="1.9.1", files=[]))
    common = ["--data-dir", str(tmp_path), "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), "--only"]
    return lambda only: script.main([*common, only]) or json.loads((tmp_path / "out/variants.json").read_text())["variants"]


def test_every_variant_is_measured_and_a_broken_package_is_not_the_end(run, tmp_path):
    found = run(ASKED)
    assert list(found) == ASKED.split(",")
    assert found["hatesonar"]["not_run"] == "RuntimeError: no such locale"
    for name, variant in found.items():
        if name != "hatesonar":
            assert set(variant["figures"]) == ({"GPTFuzz"} if name == "reference" else set(SETS))
            assert {"parameters", "megabytes", "latency_ms_one_thread", "made_by"} <= set(variant)
    ranked = found["probe"]["figures"]["PKU-SafeRLHF"]
    assert ranked["auc_interval"][0] <= ranked["auc"] == 1.0
    refusals = found["alt-profanity-check"]["figures"]["refusals, PKU-SafeRLHF"]
    assert refusals["auc"] is refusals["f1"] is None
    assert refusals["false_positive_rate"] == 0 < refusals["false_positive_rate_interval"][1]
    text = (tmp_path / "out/variants.md").read_text()
    assert "- hatesonar: RuntimeError: no such locale" in text
    assert "| frozen_minilm | 48 |" in text
    assert "bomb" not in text


def test_figures_outlive_a_later_failure(run, monkeypatch):
    before = run("alt-profanity-check")
    monkeypatch.setattr(packaged, "import_module", lambda _: sys.modules["nothing"])
    assert run("alt-profanity-check") == before


def test_an_unknown_variant_is_an_error(run, capsys):
    with pytest.raises(SystemExit):
        run("mini,nothing")
    assert "no variant nothing" in capsys.readouterr().err


def test_only_the_timing_is_on_one_thread():
    threads = []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        score = lambda pairs: threads.append(torch.get_num_threads()) or np.zeros(len(pairs))  # noqa: E731
        found = measure(Variant(score, lambda pair: score([pair]), None, 0.0, {}), {"a": PAIRS[:2]})
        assert threads == [2, 1, 1, 1]
        assert found["figures"]["a"]["ungraded"] == 0
        with pytest.raises(ZeroDivisionError), one_thread():
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
