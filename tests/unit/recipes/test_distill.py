"""How a run starts: what cannot start leaves the folder as it was."""

from dataclasses import replace

import numpy as np
import pytest

from softguard.core import Verdict
from softguard.data import PromptRow
from softguard.errors import CompatibilityError, ConfigError, DataError, SourceError
from softguard.evaluation.statistics import auc, auc_estimate
from softguard.guards import load_guard
from softguard.recipes import distill as distilling
from softguard.recipes.config import load_config, resolved
from softguard.recipes.distill import Parts
from softguard.recipes.policies import policy_of
from softguard.recipes.prompts import RunPrompts
from softguard.runs import RunDir
from softguard.teacher import GuardedSystem
from softguard.training import ValidationScore
from tests.fakes import KeywordGuard, tiny_model


def test_a_start_that_fails_does_not_bind_the_folder(tmp_path, monkeypatch):
    def absent(config, data_dir=None):
        raise SourceError("a model", "none", "name another")

    monkeypatch.setattr(distilling, "load_parts", absent)
    with pytest.raises(SourceError):
        distilling.distill(load_config(None, ["model.name=mistyped"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_place_that_the_template_lacks_does_not_bind_the_folder(tmp_path, monkeypatch):
    lm = tiny_model()
    lm.tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% endfor %}"
    rows = RunPrompts([PromptRow("a", "hi", "benign", "softguard", split="train")], [], [])
    monkeypatch.setattr(
        distilling, "load_parts", lambda config, data_dir=None: Parts(config, lm, GuardedSystem(lm, KeywordGuard()), rows)
    )
    config = load_config(None, ["adapter.placement=[{slot='system',count=32}]"])
    with pytest.raises(CompatibilityError, match="slot 'system'"):
        distilling.distill(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_config_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    RunDir.create(tmp_path / "run", resolved(load_config(None)))
    monkeypatch.setattr(distilling, "load_parts", lambda *given: pytest.fail("loaded"))
    with pytest.raises(CompatibilityError, match=r"training\.steps = 7, there 150"):
        distilling.distill(load_config(None, ["training.steps=7"]), tmp_path / "run")


def test_a_run_does_not_go_on_with_another_guard(tmp_path, monkeypatch):
    rows = RunPrompts([PromptRow("a", "hi", "benign", "softguard", split="train")], [], [])

    def parts_with(fingerprint):
        guard = KeywordGuard()
        guard.fingerprint = fingerprint
        system = GuardedSystem(tiny_model(), guard)
        return lambda config, data_dir=None: Parts(config, system.lm, system, rows)

    class Stopped(Exception):
        pass

    def stop(*given, **named):
        raise Stopped

    monkeypatch.setattr(distilling, "examples", stop)
    for fingerprint, expected in (("one", Stopped), ("one", Stopped), ("two", CompatibilityError)):
        monkeypatch.setattr(distilling, "load_parts", parts_with(fingerprint))
        with pytest.raises(expected):
            distilling.distill(load_config(None), tmp_path / "run")


def test_provenance_says_how_the_base_is_held(tmp_path):
    pytest.importorskip("bitsandbytes")
    for kind, held in (("llama", "none"), ("llama-nf4", "nf4")):
        lm = tiny_model(kind)
        parts = Parts(load_config(None), lm, GuardedSystem(lm, KeywordGuard()), RunPrompts([], [], []))
        made_by = distilling.provenance(parts)
        assert made_by["model"]["quantisation"] == held
        assert ("bitsandbytes" in made_by["versions"]) == (held == "nf4")


def rows(labels, split="train"):
    return [PromptRow(f"{k}-{label}", "hi", label, "softguard", split=split) for k, label in enumerate(labels)]


ALL = rows(["harmful", "look_alike", "benign"], "validation")
HEADER = "adapter.placement=[{slot='front',count=24},{slot='after_header',count=8}]"
GATED = ["adapter.kind=refusal_gate", HEADER.replace("adapter.", "adapter.soft_prompt.")]


@pytest.mark.parametrize(
    ("train", "validation", "said"),
    [
        ([], ALL, "found none"),
        (["harmful", "harmful"], ALL, "2 of one kind"),
        (["benign", "look_alike"], ALL, "2 of one kind"),
        (["benign", "harmful"], ALL[:2], "no benign"),
        (["benign", "harmful"], [], "no benign, harmful, look_alike"),
    ],
)
def test_prompts_of_one_kind_are_refused_before_a_model_is_loaded(train, validation, said, monkeypatch, tmp_path):
    monkeypatch.setattr(distilling, "run_prompts", lambda config, data_dir: RunPrompts(rows(train), validation, []))
    monkeypatch.setattr(distilling, "load_base", lambda config: pytest.fail("loaded"))
    with pytest.raises(DataError, match=said):
        distilling.distill(load_config(None), tmp_path / "run")
    assert not (tmp_path / "run").exists()


APART = [
    (["objective.kind=ppo", "training.on_policy_fraction=0.5"], "leave it at 0"),
    (["objective.kind=reinforce", "training.on_policy_fraction=0.5"], "leave it at 0"),
    (["objective.kind=perplexity", "training.on_policy_fraction=0.5"], "leave it at 0"),
    (["objective.kind=perplexity", HEADER], "choose another placement"),
    (["objective.kind=perplexity", *GATED], "choose another placement"),
    (["objective.kind=dpo", "teacher.policy=absent.toml"], "take a distillation objective"),
    (["objective.kind=perplexity", "teacher.policy=absent.toml"], "leave teacher.policy out"),
    (["objective.kind=reinforce", "teacher.policy=absent.toml"], "leave teacher.policy out"),
    (["objective.kind=ppo", "teacher.policy=absent.toml"], "leave teacher.policy out"),
]
"""Settings that do not go together, whatever is loaded."""


@pytest.mark.parametrize(("settings", "said"), APART)
def test_settings_that_do_not_go_together_are_refused_with_the_config(settings, said):
    with pytest.raises(CompatibilityError, match=said):
        load_config(None, settings)


def test_a_config_that_was_made_by_hand_is_asked_before_anything_is_loaded(monkeypatch, tmp_path):
    monkeypatch.setattr(distilling, "load_parts", lambda *given: pytest.fail("loaded"))
    config = load_config(None, ["objective.kind=ppo"])
    config = config.model_copy(update={"teacher": config.teacher.model_copy(update={"policy": "absent.toml"})})
    with pytest.raises(CompatibilityError, match=r"leave teacher\.policy out"):
        distilling.distill(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_policy_that_is_nowhere_is_said_before_a_model_is_loaded(monkeypatch, tmp_path):
    monkeypatch.setattr(distilling, "run_prompts", lambda config, data_dir: RunPrompts(rows(["harmful", "benign"]), ALL, []))
    monkeypatch.setattr(distilling, "load_base", lambda config: pytest.fail("loaded"))
    with pytest.raises(ConfigError, match="policy file"):
        distilling.distill(load_config(None, ["teacher.guard=keyword", "teacher.policy=absent.toml"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_category_of_a_policy_is_said_before_a_model_is_loaded(monkeypatch, tmp_path):
    file = tmp_path / "policy.toml"
    file.write_text('[categories]\nalarming_words = { action = "keep" }\n')
    monkeypatch.setattr(distilling, "run_prompts", lambda config, data_dir: RunPrompts(rows(["harmful", "benign"]), ALL, []))
    monkeypatch.setattr(distilling, "load_base", lambda config: pytest.fail("loaded"))
    given = ["teacher.guard=keyword", f"teacher.policy={file}"]
    with pytest.raises(ConfigError) as raised:
        distilling.distill(load_config(None, given), tmp_path / "run")
    expected, found, todo = str(raised.value).split("; ")
    assert "a category among alarming_word" in expected
    assert "'alarming_words' in" in found
    assert todo == "did you mean 'alarming_word'?"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("p_safe", [float("nan"), 1.5, -0.1])
def test_a_guard_that_gives_no_probability_stops_the_run_at_the_first_shard(p_safe, monkeypatch, tmp_path):
    """It reads drafts, so that nothing can be known of it before; no more than a shard is spent."""

    class Wrong(KeywordGuard):
        asked = 0

        def judge(self, conversations):
            Wrong.asked += 1
            return [Verdict(p_safe=p_safe) for _ in conversations]

    lm = tiny_model()
    parts = Parts(load_config(None), lm, GuardedSystem(lm, Wrong()), RunPrompts(rows(["harmful", "benign"]), ALL, []))
    monkeypatch.setenv("SOFTGUARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(distilling, "load_parts", lambda config, data_dir: replace(parts, config=config))
    monkeypatch.setattr(distilling, "train", lambda *given: pytest.fail("trained"))
    with pytest.raises(DataError, match=r"expected p_safe in \[0, 1\]; found .*; correct the guard's score rule"):
        distilling.distill(load_config(None, ["teacher.max_new_tokens=2", "adapter.num_virtual_tokens=3"]), tmp_path / "run")
    assert Wrong.asked == 1


def test_an_interval_of_the_validation_is_over_families():
    rng = np.random.default_rng(0)
    s = rng.normal(size=(2, 20)) + np.array([[1.0], [0.0]])
    told = [PromptRow(f"h{i}", "hi", "harmful", "softguard", split="validation") for i in range(20)]
    told += [PromptRow(f"l{i}", "hi", "look_alike", "softguard", look_alike_of=f"h{i}", split="validation") for i in range(20)]
    best = ValidationScore(auc(s[0], s[1]), 0.1, 0.5, list(s[0]), list(s[1]))
    found = distilling.auc_interval(best, told)
    ends = auc_estimate(s[0], s[1], 0, range(20), range(20)).interval
    assert found == {"auc_low": ends.low, "auc_high": ends.high, "auc_n": 40}
    alone = [replace(row, look_alike_of=None) for row in told]
    assert distilling.auc_interval(best, alone) != found
    assert 0 <= found["auc_low"] < best.auc < found["auc_high"] <= 1
    assert best.to_dict() == {"auc": best.auc, "drift": 0.1, "score": 0.5}
    assert distilling.auc_interval(ValidationScore(**best.to_dict()), told) == {}  # of a checkpoint of before


def test_a_policy_goes_with_the_run_and_another_one_is_refused(monkeypatch, tmp_path):
    file = tmp_path / "policy.toml"
    file.write_text('[categories]\nalarming_word = { action = "answer_unknown" }\n')
    config = load_config(None, ["teacher.guard=keyword", f"teacher.policy={file}"])
    lm = tiny_model()

    class Stopped(Exception):
        pass

    def stop(*given):
        raise Stopped

    monkeypatch.setattr(distilling, "run_prompts", lambda config, data_dir: RunPrompts(rows(["harmful", "benign"]), ALL, []))
    monkeypatch.setattr(distilling, "load_base", lambda config: lm)
    monkeypatch.setattr(distilling, "examples", stop)
    with pytest.raises(Stopped):
        distilling.distill(config, tmp_path / "run")
    assert (tmp_path / "run" / "policy.toml").read_text() == file.read_text()
    guard = load_guard("keyword")
    told = policy_of(config, guard)
    assert policy_of(config, guard, tmp_path / "run").fingerprint == told.fingerprint
    assert policy_of(load_config(None), guard) is None
    file.write_text(file.read_text() + "\n")
    with pytest.raises(CompatibilityError, match="policy that the run"):
        distilling.distill(config, tmp_path / "run")


@pytest.mark.parametrize(
    "settings",
    [
        ["objective.kind=ppo", "objective.max_new_tokens=4"],
        ["objective.kind=dpo"],
        ["objective.kind=forward_kl", "training.on_policy_fraction=0.5", "teacher.policy=given"],
    ],
    ids=["ppo", "dpo", "on policy under a policy"],
)
def test_the_whole_recipe_on_a_tiny_model(settings, monkeypatch, tmp_path):
    file = tmp_path / "policy.toml"
    file.write_text('[categories]\nalarming_word = { action = "answer_unknown" }\n')
    small = ["training.steps=2", "training.batch_size=2", "training.on_policy_tokens=4", "teacher.max_new_tokens=4"]
    given = [s.replace("given", str(file)) for s in settings]
    lm = tiny_model()
    monkeypatch.setenv("SOFTGUARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(distilling, "run_prompts", lambda config, data_dir: RunPrompts(rows(["harmful", "benign"]), ALL, []))
    monkeypatch.setattr(distilling, "load_base", lambda config: lm)
    config = load_config(None, ["teacher.guard=keyword", "adapter.num_virtual_tokens=3", *small, *given])
    run = distilling.distill(config, tmp_path / "run")
    assert run.stages() == ["train"]
    assert len((run.path / "metrics.jsonl").read_text().splitlines()) == 2
