"""How a run starts: what cannot start leaves the folder as it was."""

import pytest

from softguard.data import PromptRow
from softguard.errors import CompatibilityError, SourceError
from softguard.recipes import distill as distilling
from softguard.recipes.config import load_config, resolved
from softguard.recipes.distill import Parts
from softguard.recipes.prompts import RunPrompts
from softguard.runs import RunDir
from softguard.teacher import GuardedSystem
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
