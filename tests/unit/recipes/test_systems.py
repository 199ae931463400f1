"""The systems of a run are those that it was made and measured with."""

from softguard.adapters import SoftPrompt
from softguard.core import Conversation, Verdict
from softguard.recipes import systems as building
from softguard.recipes.config import load_config, resolved
from softguard.recipes.distill import LoadedRun
from softguard.recipes.policies import POLICY_FILE
from softguard.runs import RunDir
from tests.fakes import tiny_model


def test_what_is_served_as_guarded_follows_the_policy_of_the_run(monkeypatch, tmp_path):
    lm, config = tiny_model(), load_config(None, ["teacher.guard=keyword", "teacher.policy=gone.toml"])
    run = RunDir.create(tmp_path / "run", resolved(config))
    run.write_text(POLICY_FILE, '[categories]\nalarming_word = { action = "answer_unknown" }\n')
    loaded = LoadedRun(run, config, lm, SoftPrompt.create(config.adapter, lm, 0), 0.0)
    monkeypatch.setattr(building, "load_run", lambda path: loaded)
    guarded = building.run_systems(run.path, "keyword").systems["guarded"]
    decided = guarded.policy.decide(Conversation.from_prompt("hi"), "yes", Verdict(p_safe=0.0, categories={"alarming_word": 1.0}))
    assert decided.instead["I do not know the answer."] == 1.0
