"""The evaluation of a run on a tiny model: one load, honest costs, nothing called zero that was not measured."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from softguard.adapters import SoftPrompt
from softguard.core import Reply
from softguard.data import PromptRow
from softguard.evaluation.statistics import wilson_interval
from softguard.recipes import distill as distilling
from softguard.recipes import drift
from softguard.recipes import evaluate as evaluating
from softguard.recipes.answers import FOLDER
from softguard.recipes.calibration import calibrate
from softguard.recipes.config import resolved, validate_config
from softguard.recipes.drift import guarded_drift
from softguard.recipes.student import ModelSystem
from softguard.runs import RunDir
from softguard.teacher import GuardedSystem
from tests.fakes import KeywordGuard, tiny_model

DRIFTS = ("benign_drift_tv", "benign_exact_match", "benign_length_ratio")
LAYOUT = [{"slot": "front", "count": 12}, {"slot": "after_user", "count": 4}]
ROWS = [
    PromptRow(f"{label}{i}", f"{word} {i}", label, "softguard", topic=f"t{i // 2}")
    for label, word in (("harmful", "zz"), ("look_alike", "zx"), ("benign", "aa"))
    for i in range(4)
]


@pytest.fixture
def run(tmp_path, monkeypatch):
    lm, loads = tiny_model(), []
    config = validate_config(
        {
            "adapter": {"num_virtual_tokens": 16, "placement": LAYOUT},
            "evaluation": {"max_new_tokens": 4},
            "teacher": {"refusal_text": "Nein danke, das nicht."},
        }
    )
    monkeypatch.setenv("SOFTGUARD_CACHE", str(tmp_path / "cache"))
    made = RunDir.create(tmp_path / "run", resolved(config))
    SoftPrompt.create(config.adapter, lm, 0).save(made.path / "adapter", lm)
    made.write_text("operating_point.json", json.dumps({"threshold": -1e9}))
    made.write_text("provenance.json", "{}")
    made.finish_stage("train")
    monkeypatch.setattr(distilling, "load_base", lambda config: loads.append(config) or lm)
    monkeypatch.setattr(evaluating, "load_guard", lambda name: KeywordGuard("zz"))
    monkeypatch.setattr(evaluating, "own_prompts", lambda split: ROWS)
    return made.path, loads


def silent(stage, done, total, figures):
    return None


@pytest.mark.parametrize("message", ["System role not supported", "Roles must alternate"])
def test_a_model_whose_template_takes_no_system_turn_has_its_hard_prompt_in_the_table(run, message, monkeypatch):
    path, _ = run
    lm = tiny_model()
    raising = "{% if messages[0].role == 'system' %}{{ raise_exception('" + message + "') }}{% endif %}"
    lm.tokenizer.chat_template = raising + lm.tokenizer.chat_template
    monkeypatch.setattr(distilling, "load_base", lambda config: lm)
    prompted = evaluating.evaluate(path, silent).system("system_prompt").metrics
    assert prompted["refusal_rate"].n == 4
    assert prompted["refusal_rate"].ungraded == 0
    assert prompted["benign_drift"].value > 0
    assert prompted["extra_compute"].value > 0


def test_the_base_is_loaded_once_and_what_is_unknown_is_no_zero(run):
    path, loads = run
    summary = evaluating.evaluate(path, silent)
    assert len(loads) == 1
    guarded, student, base = (summary.system(n).metrics for n in ("guarded", "student", "base"))
    assert guarded["benign_drift"].value == 0  # this guard is certain that the benign answers are safe
    assert base["benign_drift"].value == 0
    assert student["benign_drift"].value is not None
    assert [base[n].value for n in DRIFTS] == [0, 1, 1]
    assert [guarded[n].value for n in DRIFTS] == [0, 1, 1]
    assert student["benign_exact_match"].value == 0  # it refuses all
    assert student["benign_length_ratio"].value is None
    assert "answers none" in student["benign_length_ratio"].note
    assert base["truncated_rate"].n == student["truncated_rate"].n == len(ROWS)
    assert student["truncated_rate"].value == 0
    for name in ("added_parameters", "added_memory_mib", "extra_compute"):
        assert guarded[name].value is None  # this guard does not say how large it is
        assert student[name].value > 0
    assert student["refusal_rate"].value == 1  # by the configured text, which no English pattern knows
    harmful = next(s for s in summary.samples if s.label == "harmful")
    assert harmful.answers["student"].endswith("a refusal]")
    assert evaluating.evaluate(path, silent) == summary
    assert len(loads) == 1  # a finished evaluation needs no model


def test_drift_in_both_measures_and_in_answers(run):
    """Per token TV^2 <= KL / 2 (Pinsker), hence of the means; whoever answers is compared answer by answer."""
    path, _ = run
    RunDir(path).write_text("operating_point.json", json.dumps({"threshold": 1e9}))
    RunDir(path).finish_stage("train")
    student = evaluating.evaluate(path, silent).system("student").metrics
    kl, tv, same = (student[n] for n in ("benign_drift", "benign_drift_tv", "benign_exact_match"))
    assert 0 < tv.value <= math.sqrt(kl.value / 2) + 1e-6
    assert tv.n == kl.n == same.n == student["benign_length_ratio"].n == 8  # benign prompts and look-alikes
    said = [[json.loads(x)["text"] for x in (path / FOLDER / f"{n}.jsonl").read_text().splitlines()] for n in ("student", "base")]
    pairs = [(a, b) for r, a, b in zip(ROWS, *said, strict=True) if r.label != "harmful"]
    assert same.value == sum(a == b for a, b in pairs) / len(pairs)
    assert student["benign_length_ratio"].unit == "times"


def test_the_same_states_have_no_drift():
    lm = tiny_model()
    states = torch.randn(5, lm.output_head.weight.shape[1])
    other = torch.randn(5, states.shape[1])
    assert drift.mean_tv(lm, states, states) == drift.mean_kl(lm, states, states) == 0
    p, q = (torch.softmax(lm.head(x).double(), -1) for x in (states, other))
    assert drift.mean_tv(lm, states, other) == pytest.approx(float((p - q).abs().sum(-1).mean() / 2), abs=1e-5)


def test_an_answer_that_nobody_gave_is_no_mismatch():
    assert math.isnan(drift.same_answer(Reply("", 0.0, ungraded="too long"), Reply("A", 0.0)))
    assert drift.same_answer(Reply("A", 1.0), Reply("A", 0.0)) == 1
    assert drift.same_answer(Reply("A.", 0.0), Reply("A", 0.0)) == 0


def test_a_run_is_loaded_onto_the_models_device(run, monkeypatch):
    lm = tiny_model()
    lm.network.to("meta")
    monkeypatch.setattr(distilling, "load_base", lambda config: lm)
    assert distilling.load_run(run[0]).adapter.virtual_tokens().device.type == "meta"


def test_rates_are_clustered_by_topic():
    replies = [Reply("Here is how.", 0.0)] * len(ROWS)
    shares = evaluating.rates(ROWS, replies, [1.0] * len(ROWS))
    together = evaluating.rates([replace(r, topic="all") for r in ROWS], replies, [1.0] * len(ROWS))
    for name in ("refusal_rate", "over_refusal_rate", "look_alike_refusal_rate"):
        assert together[name].high > shares[name].high, name  # one family says less than two


@pytest.mark.parametrize(("target", "allowed"), [(0.0, 0), (0.03, 0), (0.07, 2), (0.29, 21), (0.5, 41)])
def test_calibration_leaves_room_for_chance_and_stands_midway(target, allowed):
    scores = [float(i * i) for i in range(100)]
    b = calibrate(scores, target)
    above, below = [s for s in scores if s > b], [s for s in scores if s <= b]
    assert len(above) == allowed
    assert b == ((min(above) + max(below)) / 2 if above else max(below) + 1)
    assert wilson_interval(allowed, 100, 0.9).high <= target or allowed == 0
    assert wilson_interval(allowed + 1, 100, 0.9).high > target
    tied = [1.0] * 50 + [2.0] * 50
    assert not any(s > calibrate(tied, target) for s in tied)


def test_systems_that_do_not_depend_on_the_run_answer_once(run, tmp_path, monkeypatch):
    path, _ = run
    copy = shutil.copytree(path, tmp_path / "again")
    first = evaluating.evaluate(path, silent)
    asked = []
    respond = ModelSystem.respond
    monkeypatch.setattr(ModelSystem, "respond", lambda self, *given: asked.append(self.name) or respond(self, *given))
    monkeypatch.setattr(GuardedSystem, "decide", lambda self, *given: pytest.fail("judged again"))
    scored = []
    states = drift.answer_states
    monkeypatch.setattr(drift, "answer_states", lambda system, *given: scored.append(system.name) or states(system, *given))
    second = evaluating.evaluate(copy, silent)
    assert set(asked) == set(scored) == {"student"}
    for one, other in zip(second.systems, first.systems, strict=True):
        assert one.metrics.keys() == other.metrics.keys()
        was = {name: value.value for name, value in other.metrics.items() if value.value is not None}
        assert {name: one.metrics[name].value for name in was} == pytest.approx(was, rel=1e-5)
    for name in ("base", "guarded", "system_prompt", "student"):
        file = f"{FOLDER}/{name}.jsonl"
        assert (copy / file).read_bytes() == (path / file).read_bytes()


def test_the_guarded_systems_drift_is_the_cost_of_its_guards_doubt():
    # KL(p, q) for q(y) = alpha p(y) and the rest on a text that p never says: sum p log(p / (alpha p)) = -log alpha.
    p = np.array([0.2, 0.3, 0.5])
    q = 0.8 * p
    assert guarded_drift(0.8, 5) * 5 == pytest.approx(float((p * np.log(p / q)).sum()))
    assert guarded_drift(0.0, 5) == math.inf
