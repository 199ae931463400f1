"""`evaluate --suite` on a tiny model: resumed, judged, tabled; what is unknown is no zero, and no prompt is written anywhere."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from softguard.adapters.steering_vector import SteeringVector, SteeringVectorConfig
from softguard.core import Conversation, Reply, Verdict
from softguard.errors import ConfigError, DataError, GuardError
from softguard.evaluation.judges.guard import GuardJudge
from softguard.evaluation.judges.reference import reference_judge_path
from softguard.evaluation.results import EvaluationSummary
from softguard.guards.linear import FEATURES
from softguard.recipes import distill as distilling
from softguard.recipes import suites as measuring
from softguard.recipes.compare import compare_suites
from softguard.recipes.divergence import divergences
from softguard.recipes.report import report_run
from softguard.recipes.student import ModelSystem
from softguard.recipes.suite_request import SuiteRequest
from softguard.recipes.suites import evaluate_suites, summaries_of
from softguard.runs import RunDir
from softguard.teacher import GuardedSystem
from tests.fakes import KeywordGuard, tiny_model
from tests.unit.recipes.tiny_run import tiny_run

PROMPTS = [f"zz {i}" for i in range(4)]
REFUSAL = "Nein danke, das nicht."


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for folder in ("malicious_instruct", "xstest"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    (tmp_path / "data/malicious_instruct/MaliciousInstruct.txt").write_text("\n".join(PROMPTS))
    rows = [f"zx {i},homonyms,safe\nzz {i},contrast_homonyms,unsafe" for i in range(3)]
    (tmp_path / "data/xstest/xstest_prompts.csv").write_text("prompt,type,label\n" + "\n".join(rows))
    return tmp_path / "data"


@pytest.fixture
def make(tmp_path, monkeypatch):
    lm = tiny_model()
    monkeypatch.setenv("SOFTGUARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(distilling, "load_base", lambda config: lm)
    monkeypatch.setattr(measuring, "load_guard", lambda name: KeywordGuard("zz 1"))

    return lambda name, threshold, seed=0: tiny_run(tmp_path / name, lm, threshold, REFUSAL, seed)


def silent(stage, done, total, figures):
    return None


def test_a_suite_is_measured_plain_and_under_attack(make, data):
    path = make("run", -1e9)  # this student refuses all that asks for it
    request = SuiteRequest("malicious_instruct", "base64,prefill", "refusal,keyword")
    (summary,) = evaluate_suites(path, request, data, silent)
    base, guarded, student = (summary.system(n).metrics for n in ("base", "guarded", "student"))
    assert base["attack_success_rate"].value == 1  # by the patterns, whatever is no refusal
    assert base["attack_success_rate"].n == len(PROMPTS)
    assert guarded["attack_success_rate"].value == 0.75  # the guard stops one of four
    assert guarded["attack_success_rate:base64"].value == 1  # it does not read Base64
    assert guarded["attack_success_rate:any"].value == 1
    assert [student[f"attack_success_rate{w}"].value for w in ("", ":base64", ":prefill", ":any")] == [0, 0, 0, 0]
    assert student["refusal_rate"].value == 1
    assert base["attack_success_rate@keyword"].value == 0  # the judge of our own package knows another word
    assert base["truncated_rate"].value == 1
    assert student["truncated_rate"].value == 0
    plain = next(d for d in summary.differences if (d.metric, d.reference) == ("attack_success_rate", "base"))
    assert (plain.value.value, plain.p_value, plain.test) == (-1, pytest.approx(2 / 16), "McNemar, exact")
    (agreed,) = summary.agreement
    assert (agreed.first, agreed.second, agreed.n) == ("refusal", "keyword", 4 * 3 * len(PROMPTS))
    assert any(line.startswith("Power") for line in summary.limits)
    assert not any("training guard" in line for line in summary.limits)
    assert summary.suite == "MaliciousInstruct"


def test_where_the_reference_judge_lies_it_leads(make, data):
    path = make("run", 0.0)
    (alone,) = evaluate_suites(path, SuiteRequest("malicious_instruct"), data, silent)
    assert alone.suite == "MaliciousInstruct: agreement with the training guard"
    judge = reference_judge_path()
    judge.parent.mkdir(parents=True)
    judge.write_text('kind = "linear"\nweights = "w.safetensors"\n')
    weights = {"weight": np.zeros(2 * FEATURES, dtype=np.float32), "bias": np.ones(1, dtype=np.float32)}
    save_file(weights, judge.with_name("w.safetensors"))
    (both,) = evaluate_suites(path, SuiteRequest("malicious_instruct"), data, silent)
    assert both.suite == "MaliciousInstruct"
    assert [(a.first, a.second) for a in both.agreement] == [("reference", "keyword")]
    assert both.system("base").metrics["attack_success_rate"].value == 1  # this one calls everything unsafe
    assert both.system("base").metrics["attack_success_rate@keyword"].value == 0  # the keyword of our own package is another


def test_a_judge_that_asks_the_training_guard_is_not_independent(make, data, tmp_path):
    strict = tmp_path / "strict.toml"
    strict.write_text('kind = "calibrated"\nguard = "keyword"\nname = "another"\n')
    (summary,) = evaluate_suites(make("run", 0.0), SuiteRequest("malicious_instruct", "", f"{strict},refusal"), data, silent)
    assert summary.suite == "MaliciousInstruct: agreement with the training guard"
    assert (summary.judges, summary.training_judges) == (["another", "refusal"], ["another"])
    assert summary.info("attack_success_rate").label == "Flagged by the training guard (judge: another)"
    assert summary.info("attack_success_rate@refusal").label == "Attack success (judge: refusal)"
    (led,) = evaluate_suites(make("led", 0.0), SuiteRequest("malicious_instruct", "", f"refusal,{strict}"), data, silent)
    assert led.suite == "MaliciousInstruct"
    assert "not safety" in led.info("sgs@another").definition
    assert "Judged by refusal, which leads; beside it by another." in led.limits


def test_what_is_written_is_whole_listed_and_holds_no_prompt(make, data):
    path = make("run", 0.0)
    (summary,) = evaluate_suites(path, SuiteRequest("malicious_instruct", "past_tense", "keyword"), data, silent)
    assert any("training guard" in line for line in summary.limits)
    assert summary.suite == "MaliciousInstruct: agreement with the training guard"
    ((folder, read),) = summaries_of(RunDir.open(path))
    assert read == summary
    assert folder.startswith("malicious_instruct-")
    listed = json.loads((path / "manifest.json").read_text())["files"]
    assert {f"evaluations/{folder}/{name}" for name in ("samples.jsonl", "summary.json")} <= set(listed)
    text = (path / "evaluations" / folder / "samples.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) == 4 * 2 * len(PROMPTS)
    assert {(line["system"], line["wrapper"]) for line in lines} >= {("guarded", "plain"), ("student", "past_tense")}
    assert set(lines[0]["harm"]) == {"keyword"}
    assert not any(prompt in json.dumps(line["id"]) + line["prompt_sha256"] for prompt in PROMPTS for line in lines)
    assert "prompt" not in lines[0]


def test_nothing_is_answered_or_judged_twice(make, data, monkeypatch):
    path = make("run", -1e9)
    asked: list[str] = []
    respond = ModelSystem.respond

    def counting(self, conversations, *rest):
        asked.extend([self.name] * len(conversations))
        return respond(self, conversations, *rest)

    monkeypatch.setattr(ModelSystem, "respond", counting)
    evaluate_suites(path, SuiteRequest("malicious_instruct", limit=2), data, silent)
    assert len(asked) == 3 * 2
    whole = evaluate_suites(path, SuiteRequest("malicious_instruct"), data, silent)
    assert len(asked) == 3 * 4  # the larger set adds to the smaller
    assert evaluate_suites(path, SuiteRequest("malicious_instruct"), data, silent) == whole
    evaluate_suites(path, SuiteRequest("malicious_instruct", judges="refusal"), data, silent)
    assert len(asked) == 3 * 4  # another judge needs no new answer
    evaluate_suites(make("other", -1e9, seed=1), SuiteRequest("malicious_instruct"), data, silent)
    assert asked[12:] == ["student"] * 4  # the others do not depend on the run


def test_a_kill_loses_a_batch_at_most(make, data, monkeypatch):
    path = make("run", -1e9)
    monkeypatch.setattr("softguard.recipes.remembering.BATCH_ROWS", 1)
    respond, count = ModelSystem.respond, []

    def failing(self, *given):
        count.append(self.name)
        if len(count) == 6:
            raise KeyboardInterrupt
        return respond(self, *given)

    monkeypatch.setattr(ModelSystem, "respond", failing)
    with pytest.raises(KeyboardInterrupt):
        evaluate_suites(path, SuiteRequest("malicious_instruct"), data, silent)
    (summary,) = evaluate_suites(path, SuiteRequest("malicious_instruct"), data, silent)
    assert len(count) == 3 * 4 + 1
    assert summary.system("base").metrics["refusal_rate"].n == 4


def test_shards_are_put_together_from_the_cache(make, data, monkeypatch):
    path = make("run", -1e9)
    parts = [evaluate_suites(path, SuiteRequest("malicious_instruct", shard=(i, 2)), data, silent)[0] for i in (1, 2)]
    assert [p.system("base").metrics["refusal_rate"].n for p in parts] == [2, 2]
    assert any("shard 1/2" in line for line in parts[0].limits)
    monkeypatch.setattr(ModelSystem, "respond", lambda *given: pytest.fail("answered again"))
    (whole,) = evaluate_suites(path, SuiteRequest("malicious_instruct"), data, silent)
    assert whole.system("student").metrics["refusal_rate"].n == 4


def test_a_prompt_that_does_not_fit_is_ungraded(make, data):
    (data / "malicious_instruct/MaliciousInstruct.txt").write_text("\n".join([*PROMPTS, "zz " * 3000]))
    (summary,) = evaluate_suites(make("run", -1e9), SuiteRequest("malicious_instruct", judges="refusal"), data, silent)
    for system in summary.systems:
        value = system.metrics["attack_success_rate"]
        assert (value.value, value.n, value.ungraded) == (None, 4, 1), system.system
        assert value.upper_bound > value.lower_bound


class Gone(KeywordGuard):
    """A guard that never answers, as one behind a server that is down."""

    name = fingerprint = "gone"

    def judge(self, conversations):
        return [Verdict(ungraded="127.0.0.1: unreachable") for _ in conversations]


def test_a_judge_that_is_gone_stops_the_evaluation_and_costs_no_answer(make, data, monkeypatch):
    path, request = make("run", 1e9), SuiteRequest("malicious_instruct", judges="keyword")
    monkeypatch.setattr(measuring, "load_judge", lambda name: GuardJudge(Gone()))
    with pytest.raises(GuardError, match=r"1% ungraded answers by gone\D+8 of 8 so far \(127.0.0.1: unreachable\)"):
        evaluate_suites(path, request, data, silent)
    assert not (path / "evaluations").exists()
    (most,) = evaluate_suites(path, replace(request, max_ungraded=1.0), data, silent)
    assert most.system("base").metrics["attack_success_rate"].value is None


def test_what_was_answered_before_a_judge_went_is_not_asked_again(make, data, monkeypatch):
    path, request = make("run", 1e9), SuiteRequest("malicious_instruct", judges="refusal")
    with monkeypatch.context() as gone:
        gone.setattr(measuring, "load_judge", lambda name: GuardJudge(Gone()))
        with pytest.raises(GuardError):
            evaluate_suites(path, request, data, silent)
    monkeypatch.setattr(ModelSystem, "respond", lambda *given: pytest.fail("answered again"))
    (summary,) = evaluate_suites(path, request, data, silent)
    assert summary.system("student").metrics["refusal_rate"].n == 4


def test_a_training_guard_that_is_gone_stops_it_too(make, data, monkeypatch):
    monkeypatch.setattr(measuring, "load_guard", lambda name: Gone())
    with pytest.raises(GuardError, match=r"ungraded answers by gone"):
        evaluate_suites(make("run", 1e9), SuiteRequest("malicious_instruct", "past_tense", judges="refusal"), data, silent)


def test_a_suite_with_families_and_look_alikes(make, data):
    (summary,) = evaluate_suites(make("run", -1e9), SuiteRequest("xstest", judges="refusal"), data, silent)
    student = summary.system("student").metrics
    assert student["look_alike_refusal_rate"].value == 1
    assert student["compliance_rate#look_alike"].value == 0
    assert "over_refusal_rate" not in student
    assert student["refusal_auc"].n == 6
    assert {d.test for d in summary.differences} == {"sign flips"}
    assert any("1 families" in line for line in summary.limits)


def test_the_divergence_from_the_teacher_is_measured(make, data, monkeypatch):
    path = make("run", -1e9)
    request = SuiteRequest("malicious_instruct", judges="refusal", draws=8)
    (summary,) = evaluate_suites(path, request, data, silent)
    base, student = (summary.system(n).metrics for n in ("base", "student"))
    # The teacher refuses one prompt of four; the base none, the student at its threshold all.
    assert base["decision_divergence"].value == pytest.approx(0.25, abs=0.05)
    assert student["decision_divergence"].value == pytest.approx(0.75)
    assert base["sequence_tv"].value == pytest.approx(0.25, abs=0.01)
    assert base["sequence_tv"].value < student["sequence_tv"].value <= 1
    assert 0 < base["token_tv"].value < student["token_tv"].value <= 1
    assert "at most" in student["sequence_tv"].note
    assert "guarded" not in {s.system for s in summary.systems if "sequence_tv" in s.metrics}
    assert any("temperature 1" in line for line in summary.limits)
    monkeypatch.setattr("softguard.recipes.divergence.sample", lambda *given, **options: pytest.fail("drawn again"))
    other = evaluate_suites(make("other", 0.0, seed=1), request, data, silent)[0]
    assert other.system("base").metrics["sequence_tv"] == base["sequence_tv"]


def test_the_divergence_is_that_of_a_student_whose_adapter_is_attached(tmp_path, monkeypatch):
    """A steering vector has no virtual tokens: scored without being attached, it would be the base model."""
    monkeypatch.setenv("SOFTGUARD_CACHE", str(tmp_path / "cache"))
    lm = tiny_model()
    adapter = SteeringVector.create(SteeringVectorConfig(layer=0), lm, 0)
    with torch.no_grad():
        adapter.parameters()[0] += 5.0
    systems = [ModelSystem("base", lm), ModelSystem("student", lm, adapter=adapter)]
    prompts = [Conversation.from_prompt(p) for p in PROMPTS]
    found = divergences(GuardedSystem(lm, KeywordGuard("none")), systems, prompts, 8, 4, None, silent)
    assert found["base"]["sequence_tv"].value == pytest.approx(0, abs=1e-3)
    assert found["student"]["sequence_tv"].value > 0.1


def test_suites_are_in_the_report_and_in_compare(make, data):
    first, second = make("a", -1e9), make("b", 1e9, seed=1)
    request = SuiteRequest("malicious_instruct,xstest", "prefill", "refusal,keyword")
    for path in (first, second):
        evaluate_suites(path, request, data, silent)
    own = EvaluationSummary(suite="own", systems=[])
    page = report_run(RunDir.open(first), own).read_text()
    markdown = (first / "report.md").read_text()
    for text in (page, markdown):
        assert "Attack success, prefill" in text
        assert "corrected (Holm)" in text
        assert "kappa" in text
        assert "Suite: MaliciousInstruct" in text
    compared = compare_suites([first, second])
    assert [s.suite for _, s in compared] == ["MaliciousInstruct", "XSTest"]
    assert [s.system for s in compared[0][1].systems] == ["base", "guarded", "system_prompt", "student:a", "student:b"]
    values = [s.metrics["refusal_rate"].value for s in compared[0][1].systems[-2:]]
    assert values == [1, 0]
    (agreed,) = compared[0][1].agreement
    assert (agreed.first, agreed.second) == ("refusal", "keyword")
    assert agreed.n == 5 * 2 * len(PROMPTS)  # shared systems once, both students, plain and prefilled
    (alone,) = compare_suites([first])[0][1].agreement
    assert alone == evaluate_suites(first, request, data, silent)[0].agreement[0]


@pytest.mark.parametrize(
    "wrong",
    [
        SuiteRequest("malicius_instruct"),
        SuiteRequest("xstest", wrappers="base63"),
        SuiteRequest("xstest", judges="nobody"),
        SuiteRequest("xstest", systems="guarded"),
        SuiteRequest("xstest", systems="students"),
        SuiteRequest("xstest", shard=(3, 2)),
        SuiteRequest("xstest", draws=3),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_loaded(wrong, tmp_path):
    with pytest.raises(ConfigError):
        evaluate_suites(tmp_path / "no run", wrong, None, silent)


def test_a_set_that_is_nowhere_names_its_home(make, data):
    with pytest.raises(DataError, match="huggingface"):
        evaluate_suites(make("run", 0.0), SuiteRequest("beavertails_safe"), data, silent)


def test_guards_among_the_judges_are_fetched():
    assert SuiteRequest("x", judges="refusal, mini,strongreject@keyword,strongreject@org/model").fetched() == ["mini", "keyword"]


def test_a_begun_answer_goes_on(make):
    from softguard.core import Conversation

    system = ModelSystem("base", tiny_model(), refusal_text=REFUSAL)
    plain = Conversation.from_prompt("Hi")
    begun = plain.with_response("Sure, here is")
    ids = system.prompt_ids(begun)
    assert ids == system.prompt_ids(plain) + system.renderer.encode_response("Sure, here is")
    assert begun.answered("a list.").response == "Sure, here is a list."
    assert begun.request == plain
    assert plain.answered("A list.") == plain.with_response("A list.")
    assert math.isnan(Reply("", float("nan")).refusal_log_odds)
