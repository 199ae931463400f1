"""Every kind of adapter goes the whole way on a tiny model: distil, load, answer, evaluate, costs."""

import json

import pytest
import torch

from softguard.adapters import ADAPTERS
from softguard.core import ReplySettings
from softguard.data import PromptRow
from softguard.recipes import distill as distilling
from softguard.recipes import evaluate as evaluating
from softguard.recipes.config import load_config, plan
from softguard.recipes.distill import Parts, RunPrompts, load_run
from softguard.recipes.student import ModelSystem
from softguard.teacher import GuardedSystem
from tests.fakes import KeywordGuard, tiny_model

SETTINGS = {
    "soft_prompt": ["num_virtual_tokens=12"],
    "kv_prefix": ["num_positions=4"],
    "lora": ["rank=2"],
    "steering_vector": ["layer=0"],
    "difference_of_means": ["layer=0", "strengths=[0.5, 4.0]"],
    "refusal_gate": [],
}
ROWS = [
    PromptRow(f"{split}-{label}{i}", f"{word} {split} {i}", label, "softguard", topic=f"t{i // 2}", split=split)
    for split in ("train", "validation", "test")
    for label, word in (("harmful", "zz"), ("look_alike", "zx"), ("benign", "aa"))
    for i in range(4)
]


def silent(stage, done, total, figures):
    return None


@pytest.fixture
def house(tmp_path, monkeypatch):
    """Everything that a recipe loads, made small."""
    lm, guard = tiny_model(), KeywordGuard("zz")
    rows = RunPrompts(*([r for r in ROWS if r.split == split] for split in ("train", "validation", "test")))
    monkeypatch.setenv("SOFTGUARD_CACHE", str(tmp_path / "cache"))
    parts = lambda config, data_dir=None: Parts(config, lm, GuardedSystem(lm, guard), rows)  # noqa: E731
    monkeypatch.setattr(distilling, "load_parts", parts)
    monkeypatch.setattr(distilling, "load_base", lambda config: lm)
    monkeypatch.setattr(evaluating, "load_guard", lambda name: guard)
    monkeypatch.setattr(evaluating, "own_prompts", lambda split: rows.test)
    return lm, tmp_path


def test_the_list_is_whole():
    assert set(SETTINGS) == set(ADAPTERS)


@pytest.mark.parametrize("kind", SETTINGS)
def test_from_a_config_to_a_measured_student(kind, house):
    lm, folder = house
    before = {name: tensor.clone() for name, tensor in lm.network.state_dict().items()}
    asked = [f"adapter.kind={kind}", *(f"adapter.{s}" for s in SETTINGS[kind])]
    small = ["training.steps=4", "training.batch_size=4", "training.validate_every=2", "training.warmup_steps=1"]
    small += ["teacher.max_new_tokens=4", "evaluation.max_new_tokens=4"]
    config = load_config(None, asked + small)
    run = distilling.distill(config, folder / "run")
    point = json.loads((run.path / "operating_point.json").read_text())
    assert point["num_parameters"] > 0
    validation = point["validation"]
    assert 0 <= validation["auc_low"] <= validation["auc"] <= validation["auc_high"] <= 1
    assert validation["auc_low"] < validation["auc_high"]
    loaded = load_run(run.path)
    assert loaded.adapter.config == config.adapter
    start = ADAPTERS.get(kind).create(config.adapter, lm, config.training.seed)
    assert any(not torch.equal(a, b) for a, b in zip(start.parameters(), loaded.adapter.parameters(), strict=True))
    conversations, ids = [r.conversation for r in ROWS[:3]], [r.id for r in ROWS[:3]]
    for temperature in (0.0, 1.0):
        replies = loaded.student().respond(conversations, ids, ReplySettings(4, temperature))
        assert len(replies) == 3
    free = ModelSystem("student", lm, adapter=loaded.adapter).refusal_log_odds(conversations)
    assert free != pytest.approx(ModelSystem("base", lm).refusal_log_odds(conversations), abs=1e-4)
    student = evaluating.evaluate(run.path, silent).system("student").metrics
    assert student["added_parameters"].value == point["num_parameters"]
    assert student["benign_drift"].value is not None
    assert all(torch.equal(tensor, before[name]) for name, tensor in lm.network.state_dict().items())
    assert distilling.distill(config, folder / "run").path == run.path  # a finished run is left alone


def test_a_plan_says_what_each_kind_learns(house):
    for kind in SETTINGS:
        lines = plan(load_config(None, [f"adapter.kind={kind}"]))
        assert len(lines) == 2
        assert ("fitted" in lines[0]) == (kind == "difference_of_means")
