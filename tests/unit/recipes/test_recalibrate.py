"""Another operating point: the first run stays, the second has its adapter and a lower threshold."""

import json

import pytest
import torch

from softguard.core import ReplySettings
from softguard.data import PromptRow
from softguard.errors import CompatibilityError, ConfigError, DataError
from softguard.models import response_states
from softguard.recipes import decision
from softguard.recipes import distill as distilling
from softguard.recipes import recalibrate as recalibrating
from softguard.recipes.calibration import allowed_refusals, calibrate
from softguard.recipes.recalibrate import recalibrate
from softguard.runs import RunDir
from tests.fakes import tiny_model
from tests.unit.recipes.tiny_run import tiny_run

PROMPTS = [
    PromptRow(f"b{i}", f"tell me about {i} and {i * 7 % 11}", "benign", "softguard", split="validation") for i in range(60)
]
HARMFUL = [PromptRow("h", "not to be scored", "harmful", "softguard", split="validation")]


def silent(stage, done, total, figures):
    pass


@pytest.fixture
def run(tmp_path, monkeypatch):
    lm = tiny_model()
    monkeypatch.setattr(distilling, "load_base", lambda config: lm)
    monkeypatch.setattr(recalibrating, "own_prompts", lambda split: [*PROMPTS, *HARMFUL])
    return tiny_run(tmp_path / "run", lm, threshold=50.0, refusal="no")


def test_the_threshold_is_that_of_the_share_and_all_else_is_kept(run, tmp_path):
    made = recalibrate(run, tmp_path / "new", 0.5, None, silent)
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
    recalibrate(run, tmp_path / "new", 0.5, None, silent)
    before = (tmp_path / "new" / "manifest.json").read_bytes()
    recalibrate(run, tmp_path / "new", 0.5, None, silent)
    assert (tmp_path / "new" / "manifest.json").read_bytes() == before
    with pytest.raises(CompatibilityError, match="over_refusal_target"):
        recalibrate(run, tmp_path / "new", 0.2, None, silent)


@pytest.mark.parametrize("target", [1.0, -1.0])
def test_a_share_that_is_none_is_refused_and_nothing_written(run, tmp_path, target):
    with pytest.raises(ConfigError, match="over_refusal_target"):
        recalibrate(run, tmp_path / "new", target, None, silent)
    assert not (tmp_path / "new").exists()


def test_a_run_is_not_overwritten_by_its_own_recalibration(run):
    kept = RunDir.open(run).config
    with pytest.raises(CompatibilityError, match="another folder"):
        recalibrate(run, run, 0.5, None, silent)
    assert RunDir.open(run).config == kept


@pytest.fixture
def by_row(run, tmp_path, monkeypatch):
    train = [PromptRow(f"t{i}", f"tell me of {i} and {i * 5 % 13}", "benign", "softguard", split="train") for i in range(80)]
    rows = {"train": train, "validation": [*PROMPTS, *HARMFUL]}
    monkeypatch.setattr(recalibrating, "own_prompts", rows.__getitem__)
    monkeypatch.setattr(decision, "POSITIONS", 500)
    return recalibrate(run, tmp_path / "row", 0.5, "row", silent).path


def test_a_row_decides_within_the_target_and_in_every_pass(by_row):
    loaded = distilling.load_run(by_row)
    student, point = loaded.student(), json.loads((by_row / "operating_point.json").read_text())
    conversations = [r.conversation for r in PROMPTS]
    s = student.refusal_log_odds(conversations)
    refused = [x > loaded.threshold for x in s]
    assert sum(refused) == point["refused_of_them"] <= allowed_refusals(len(PROMPTS), 0.5)
    assert sum(refused) > 0
    replies = student.respond(conversations, [r.id for r in PROMPTS], ReplySettings(4))
    assert [r.refused for r in replies] == refused
    torch.testing.assert_close([r.refusal_log_odds for r in replies], s, atol=1e-3, rtol=1e-3)
    with student.running() as lm:  # by hand: the row's logit against the largest of all tokens but the refusal's first
        states = response_states(lm, [student.prompt_ids(c) for c in conversations], [[0]] * 60, student.virtual_tokens).states
        logits = lm.head(states)
        own = states @ torch.tensor(point["row"])
    logits[:, student.refusal_token] = -torch.inf
    torch.testing.assert_close(own - logits.amax(-1) + loaded.threshold, torch.tensor(s), atol=1e-3, rtol=1e-3)
    assert refused == (own > logits.amax(-1)).tolist()


def test_a_row_stays_a_row_unless_told_otherwise(by_row, tmp_path):
    again = recalibrate(by_row, tmp_path / "again", 0.4, None, silent)
    assert "row" in json.loads((again.path / "operating_point.json").read_text())
    with pytest.raises(CompatibilityError, match="one that decides by row"):
        recalibrate(by_row, tmp_path / "again", 0.4, "log-odds", silent)
    plain = recalibrate(by_row, tmp_path / "plain", None, "log-odds", silent)
    assert "row" not in json.loads((plain.path / "operating_point.json").read_text())
    assert distilling.load_run(plain.path).decision is None


def test_no_row_where_nothing_may_be_refused_and_one_does(run, tmp_path, monkeypatch):
    monkeypatch.setattr(decision, "fitted_decision", lambda student, states, b: 100 * states.first[0])
    with pytest.raises(DataError, match="at most 23 of 60"):
        recalibrate(run, tmp_path / "row", 0.5, "row", silent)
