"""The commands about runs, on a tiny model."""

from types import SimpleNamespace

import pytest
import typer

from softguard.cli import runs
from softguard.recipes import distill as distilling
from softguard.recipes.config import load_config
from softguard.recipes.student import ModelSystem
from tests.fakes import tiny_model

GERMAN = "Dabei helfe ich nicht."


@pytest.fixture
def chatting(monkeypatch):
    lm, made = tiny_model(), []

    class Named(ModelSystem):
        def __init__(self, name, lm, **options):
            made.append((name, options))
            super().__init__(name, lm, **options)

    def student():
        return ModelSystem("student", lm, threshold=-1e9, refusal_text=GERMAN)

    loaded = SimpleNamespace(lm=lm, threshold=-1e9, config=load_config(None, [f"teacher.refusal_text={GERMAN}"]), student=student)
    monkeypatch.setattr("softguard.recipes.student.ModelSystem", Named)
    monkeypatch.setattr(distilling, "load_run", lambda run: loaded)
    opened = SimpleNamespace(config={"model": {"name": "tiny"}})
    monkeypatch.setattr("softguard.runs.RunDir.open", lambda path: opened)
    return made


@pytest.mark.parametrize("end", ["", typer.Abort(), KeyboardInterrupt()])
def test_chat_ends_quietly_and_its_base_has_the_runs_refusal(end, chatting, monkeypatch, capsys, tmp_path):
    said = iter(["hi", end])

    def prompt(*given, **options):
        answer = next(said)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(runs.typer, "prompt", prompt)
    runs.chat(tmp_path, 2)
    assert chatting[0] == ("base", {"refusal_text": GERMAN})
    shown = capsys.readouterr()
    assert GERMAN in shown.out
    assert "b = -1e+09" in shown.err
    assert "again" not in shown.err


def test_what_compared_runs_do_not_share_is_shown(monkeypatch, capsys, tmp_path):
    from softguard.evaluation.results import EvaluationSummary

    limit = "b was not measured as a was: " + "evaluation.prompts_per_label (9, not 60), " * 4
    summary = EvaluationSummary(suite="compared runs", systems=[], limits=[limit])
    monkeypatch.setattr("softguard.recipes.compare.compare_runs", lambda paths: summary)
    monkeypatch.setattr("softguard.recipes.compare.compare_suites", lambda paths: [])
    runs.compare([tmp_path])
    assert limit.strip() in capsys.readouterr().out
