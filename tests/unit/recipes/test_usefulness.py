"""`evaluate --suite mmlu,ifeval` on a tiny model: what a system declines is wrong, and nothing is answered twice."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from softguard.core import Verdict
from softguard.errors import ConfigError
from softguard.evaluation import harness
from softguard.recipes import distill as distilling
from softguard.recipes import harness_systems
from softguard.recipes import suites as measuring
from softguard.recipes.compare import compare_suites
from softguard.recipes.student import ModelSystem
from softguard.recipes.suite_request import SuiteRequest
from softguard.recipes.suites import evaluate_suites
from tests.fakes import tiny_model
from tests.unit.recipes.tiny_run import tiny_run

REFUSAL = "Nein danke, das nicht."
N = 6


class HalfGuard:
    """Keeps each answer with probability 1/2."""

    name = fingerprint = "half"

    def judge(self, conversations):
        return [Verdict(p_safe=0.5) for _ in conversations]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    pytest.importorskip("lm_eval", reason="the extra softguard[harness] is not installed")
    pytest.importorskip("langdetect", reason="the extra softguard[harness] is not installed")
    for folder in ("mmlu", "ifeval", "nltk_data/tokenizers/punkt_tab/english"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    rows = "".join(f"anatomy,zz{i}?,a,b,c,d,{'ABCD'[i % 4]}\n" for i in range(N))
    (tmp_path / "data/mmlu/test.csv").write_text("subject,question,A,B,C,D,answer\n" + rows)
    asked = [
        {"key": i, "prompt": f"zz{i}", "instruction_id_list": ["punctuation:no_comma"] * 2, "kwargs": [{}, {}]} for i in range(N)
    ]
    (tmp_path / "data/ifeval/input_data.jsonl").write_text("\n".join(map(json.dumps, asked)))
    return tmp_path / "data"


@pytest.fixture
def make(tmp_path, monkeypatch):
    lm = tiny_model()
    monkeypatch.setenv("SOFTGUARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(distilling, "load_base", lambda config: lm)
    monkeypatch.setattr(measuring, "load_guard", lambda name: HalfGuard())
    monkeypatch.setattr(measuring, "load_judge", lambda name: SimpleNamespace(name=name))

    return lambda name, threshold, seed=0: tiny_run(tmp_path / name, lm, threshold, REFUSAL, seed)


def silent(stage, done, total, figures):
    return None


def test_what_is_declined_is_wrong(make, data):
    open_, closed = make("open", 1e9), make("closed", -1e9)
    (free,) = evaluate_suites(open_, SuiteRequest("mmlu"), data, silent)
    (shut,) = evaluate_suites(closed, SuiteRequest("mmlu"), data, silent)
    base, guarded = (free.system(n).metrics for n in ("base", "guarded"))
    assert base["accuracy"].n == N
    assert 0 < base["accuracy"].value < 1  # else halving it would show nothing
    assert guarded["accuracy"].value == pytest.approx(base["accuracy"].value / 2)
    assert guarded["over_refusal_rate"].value == 0.5
    assert "over_refusal_rate" not in base  # a choice among letters cannot be declined without a threshold
    halved = base["gold_log_likelihood"].value - guarded["gold_log_likelihood"].value
    assert halved == pytest.approx(0.6931, abs=1e-3)  # -log 1/2
    assert shut.system("student").metrics["accuracy"].value == 0
    assert shut.system("student").metrics["over_refusal_rate"].value == 1
    assert free.system("student").metrics["over_refusal_rate"].value == 0
    likely = [s.system("student").metrics["gold_log_likelihood"].value for s in (free, shut)]
    assert likely[0] == likely[1]  # the operating point plays no part
    assert {(d.metric, d.reference) for d in free.differences} == {
        (m, r) for m in ("accuracy", "gold_log_likelihood") for r in ("base", "guarded", "system_prompt")
    }
    assert any(line.startswith("Power") for line in free.limits)
    assert [s.suite for _, s in compare_suites([open_, closed])] == ["MMLU"]


def test_written_answers_are_graded_cut_and_counted(make, data):
    path = make("run", -1e9)
    (summary,) = evaluate_suites(path, SuiteRequest("ifeval", max_new_tokens=4), data, silent)
    base, student, guarded = (summary.system(n).metrics for n in ("base", "student", "guarded"))
    assert base["accuracy#instruction_strict"].n == 2 * N
    assert base["accuracy"].value == base["accuracy#instruction_strict"].value
    assert guarded["accuracy"].value == pytest.approx(base["accuracy"].value / 2)
    assert student["accuracy"].value == 0
    assert student["over_refusal_rate"].value == 1
    assert base["truncated_rate"].value > 0
    assert "gold_log_likelihood" not in base
    lines = (path / "evaluations").glob("ifeval-*/samples.jsonl").__next__().read_text().splitlines()
    assert len(lines) == 4 * N
    assert set(json.loads(lines[0])["scores"]) == {
        "accuracy",
        "accuracy#prompt_loose",
        "accuracy#instruction_strict",
        "accuracy#instruction_loose",
    }
    assert not any("zz" in json.dumps({**json.loads(line), "response": ""}) for line in lines)


def test_nothing_is_asked_twice(make, data, monkeypatch):
    path, asked = make("run", -1e9), []
    respond, score = ModelSystem.respond, harness_systems.likelihoods

    def counting(self, conversations, *rest):
        asked.extend([self.name] * len(conversations))
        return respond(self, conversations, *rest)

    def scoring(system, conversations, answers):
        asked.extend([system.name] * len(conversations))
        return score(system, conversations, answers)

    monkeypatch.setattr(ModelSystem, "respond", counting)
    monkeypatch.setattr(harness_systems, "likelihoods", scoring)
    request = SuiteRequest("mmlu,ifeval", max_new_tokens=4)
    small = SuiteRequest("mmlu,ifeval", max_new_tokens=4, limit=2)
    evaluate_suites(path, small, data, silent)
    assert len(asked) == 3 * 2 * (4 + 1)  # four letters and one answer, of three models
    whole = [s.model_dump_json() for s in evaluate_suites(path, request, data, silent)]
    assert len(asked) == 3 * N * (4 + 1)
    assert [s.model_dump_json() for s in evaluate_suites(path, request, data, silent)] == whole
    evaluate_suites(make("other", -1e9, seed=1), request, data, silent)
    assert asked[3 * N * 5 :] == ["student"] * N * 5  # the others do not depend on the run


def test_without_the_extra_nothing_is_loaded(make, tmp_path, monkeypatch):
    def absent(name):
        raise harness.PackageNotFoundError(name)

    monkeypatch.setattr(harness, "version", absent)
    monkeypatch.setattr(measuring, "load_run", lambda path: pytest.fail("loaded"))
    with pytest.raises(ConfigError, match="softguard\\[harness\\]"):
        evaluate_suites(make("run", 0.0), SuiteRequest("usefulness"), tmp_path, silent)
