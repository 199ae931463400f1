"""The reference judge: trained on labels alone, never on the half that measures it, taken by default where it lies."""

import json

import pytest

from softguard.errors import DataError, SourceError
from softguard.evaluation.judges import load_judge
from softguard.evaluation.judges.reference import reference_judge_path
from softguard.guards import LabelledPair, load_guard
from softguard.recipes import reference_judge
from softguard.recipes.reference_judge import default_judges, is_test, train_reference_judge

HARM, CALM = "first take the wire and the powder then hide it", "please talk to a friend and be kind to people"


@pytest.fixture
def seen(monkeypatch, tmp_path):
    """Pairs whose answers tell the label, but for the test half, whose labels are turned round: who trains on it is found out."""
    monkeypatch.setenv("SOFTGUARD_CACHE", str(tmp_path / "cache"))

    def pairs(name, data_dir):
        made = []
        for i in range(600):
            unsafe = i % 2 == 0
            pair = LabelledPair(f"{name} question {i}", f"{HARM if unsafe else CALM} {i}", unsafe)
            made.append(LabelledPair(pair.prompt, pair.response, not unsafe) if name == "beavertails" and is_test(pair) else pair)
        return made

    monkeypatch.setattr(reference_judge, "labelled_pairs", pairs)


def test_it_learns_from_the_other_half_alone(seen, tmp_path):
    report = train_reference_judge(tmp_path)
    assert report["BeaverTails, the other half"]["auc"] < 0.05  # its labels are turned round
    guard = load_guard(str(reference_judge_path()))
    assert guard.name == "reference"
    pairs = [LabelledPair("q", HARM, True), LabelledPair("q", CALM, False)]
    unsafe, safe = guard.judge([p.conversation for p in pairs])
    assert unsafe.p_safe < 0.2
    assert safe.p_safe > 0.8
    assert json.loads(reference_judge_path().with_suffix(".json").read_text())["pairs"] == report["pairs"]


def test_it_leads_where_it_lies(seen, tmp_path):
    assert default_judges("mini") == ["mini"]
    with pytest.raises(SourceError, match="train-judge"):
        load_judge("reference")
    train_reference_judge(tmp_path)
    assert default_judges("mini") == ["reference", "mini"]
    assert default_judges(str(reference_judge_path())) == [str(reference_judge_path())]
    assert load_judge(default_judges("mini")[0]).name == "reference"


def test_the_same_twice(seen, tmp_path):
    train_reference_judge(tmp_path, tmp_path / "a.toml")
    train_reference_judge(tmp_path, tmp_path / "b.toml")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    with pytest.raises(DataError, match=r"\.toml"):
        train_reference_judge(tmp_path, tmp_path / "a.json")
