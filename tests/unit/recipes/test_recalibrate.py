"""Another operating point: the first run stays, the second has its adapter and a lower threshold."""

import json

import pytest

from softguard.data import PromptRow
from softguard.errors import CompatibilityError, ConfigError
from softguard.recipes import distill as distilling
from softguard.recipes import recalibrate as recalibrating
from softguard.recipes.calibration import calibrate
from softguard.recipes.recalibrate import recalibrate
from softguard.runs import RunDir
from tests.fakes import tiny_model
from tests.unit.recipes.tiny_run import tiny_run

PROMPTS = [
    PromptRow(f"b{i}", f"tell me about {i} and {i * 7 % 11}", "benign", "softguard", split="validation") for i in range(60)
]
HARMFUL = [PromptRow("h", "not to be scored", "harmful", "softguard", split="validation")]


@pytest.fixture
def run(tmp_path, monkeypatch):
    lm = tiny_model()
    monkeypatch.setattr(distilling, "load_base", lambda config: lm)
    monkeypatch.setattr(recalibrating, "own_prompts", lambda split: [*PROMPTS, *HARMFUL])
    return tiny_run(tmp_path / "run", lm, threshold=50.0, refusal="no")


def test_the_threshold_is_that_of_the_share_and_all_else_is_kept(run, tmp_path):
    made = recalibrate(run, tmp_path / "new", 0.5)
    student = distilling.load_run(run).student()
    s = student.refusal_log_odds([r.conversation for r in PROMPTS])
    loaded = distilling.load_run(made.path)
    assert loaded.threshold == pytest.approx(calibrate(s, 0.5))
    assert 0.2 < sum(x > loaded.threshold for x in s) / len(s) < 0.5
    assert loaded.config.evaluation.over_refusal_target == 0.5
    assert json.loads((made.path / "operating_point.json").read_text())["calibrated_on"] == "60 benign validation prompts"
    weights = "adapter/adapter_model.safetensors"
    assert (made.path / weights).read_bytes() == (run / weights).read_bytes()
    assert made.stages() == ["train"]
    assert distilling.load_run(run).threshold == 50.0  # the first is whole and as it was


def test_it_goes_on_and_does_not_mix_two_targets(run, tmp_path):
    recalibrate(run, tmp_path / "new", 0.5)
    before = (tmp_path / "new" / "manifest.json").read_bytes()
    recalibrate(run, tmp_path / "new", 0.5)
    assert (tmp_path / "new" / "manifest.json").read_bytes() == before
    with pytest.raises(CompatibilityError, match="over_refusal_target"):
        recalibrate(run, tmp_path / "new", 0.2)


@pytest.mark.parametrize("target", [1.0, -1.0])
def test_a_share_that_is_none_is_refused_and_nothing_written(run, tmp_path, target):
    with pytest.raises(ConfigError, match="over_refusal_target"):
        recalibrate(run, tmp_path / "new", target)
    assert not (tmp_path / "new").exists()


def test_a_run_is_not_overwritten_by_its_own_recalibration(run):
    kept = RunDir.open(run).config
    with pytest.raises(CompatibilityError, match="another folder"):
        recalibrate(run, run, 0.5)
    assert RunDir.open(run).config == kept
