"""The commands about runs, on a tiny model."""

from types import SimpleNamespace

import pytest
import typer

from softguard.cli import reports, runs
from softguard.errors import CompatibilityError, ConfigError
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
    reports.compare([tmp_path])
    assert limit.strip() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"limit": 5}, "--limit"),
        ({"wrappers": "base64"}, "--wrappers"),
        ({"suite": "xstest", "shard": "2"}, "--shard 1/4"),
        ({"suite": "xstest", "shard": "3/2"}, "--shard 1/4"),
        ({"suite": "xtest"}, "did you mean 'xstest'"),
        ({"suite": "xstest", "draws": 3}, "at least 8"),
        ({"attacks": "gcg"}, "--attacks"),
        ({"suite": "xstest", "attacks": "gcq"}, "did you mean 'gcg'"),
        ({"suite": "xstest", "attacks": "gcg", "attack_steps": 0}, "above 0"),
    ],
)
def test_what_evaluate_cannot_do_is_said_before_anything_is_loaded(options, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        runs.evaluate([tmp_path / "no run"], **options)


def test_evaluate_shows_suites_with_their_tests_and_limits(monkeypatch, capsys, tmp_path):
    from softguard.evaluation.results import Difference, EvaluationSummary, JudgeAgreement, MetricValue, SystemResult

    summary = EvaluationSummary(
        suite="XSTest",
        systems=[SystemResult(system="student", metrics={"attack_success_rate:base64": MetricValue(value=0.25, n=4)})],
        differences=[
            Difference(
                metric="look_alike_refusal_rate",
                system="student",
                reference="base",
                value=MetricValue(value=0.1, low=0.05, high=0.2, unit="points"),
                p_value=0.0001,
                test="McNemar, exact",
            )
        ],
        agreement=[JudgeAgreement(first="mini", second="refusal", kappa=0.5, low=0.2, high=0.7, observed=0.9, n=20)],
        limits=["20 prompts only."],
    )
    monkeypatch.setattr("softguard.recipes.suites.evaluate_suites", lambda run, request, data_dir, report: [summary])
    opened = SimpleNamespace(config={"model": {"name": "tiny"}, "teacher": {"guard": "keyword"}}, stages=lambda: ["train"])
    monkeypatch.setattr("softguard.runs.RunDir.open", lambda path: opened)
    monkeypatch.setenv("SOFTGUARD_CACHE", str(tmp_path))
    runs.evaluate([tmp_path], suite="xstest")
    shown = capsys.readouterr()
    for text in (
        "Attack success, base64",
        "25.0 %",
        "p < 0.001, < 0.001 corrected (Holm), McNemar, exact",
        "kappa 0.50",
        "20 prompts",
    ):
        assert text in shown.out
    assert "softguard evaluate" in shown.err
    hint = "softguard guard train-judge"
    assert shown.err.count(hint) == 1
    (tmp_path / "judges").mkdir()
    runs.evaluate([tmp_path], suite="xstest", judge="keyword")
    runs.evaluate([tmp_path], suite="usefulness")
    (tmp_path / "judges/reference.toml").touch()
    runs.evaluate([tmp_path], suite="xstest")
    assert hint not in capsys.readouterr().err


@pytest.mark.parametrize("dry_run", [True, False])
def test_settings_that_do_not_go_together_are_said_at_once(dry_run, monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "fetch_missing", lambda *given, **named: pytest.fail("fetched"))
    given = ["objective.kind=reinforce", "teacher.policy=policy.toml"]
    with pytest.raises(CompatibilityError, match=r"leave teacher\.policy out"):
        runs.distill(tmp_path / "run", set_=given, dry_run=dry_run)
