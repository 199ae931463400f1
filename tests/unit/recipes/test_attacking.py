"""White-box attacks in `evaluate --suite`: beside the wrappers, for every system, resumed prompt by prompt, reduced by name."""

import json

import pytest

from softguard.errors import ConfigError
from softguard.evaluation.attacks import Budget
from softguard.evaluation.results import metric_info
from softguard.recipes import attacking
from softguard.recipes.suite_request import SuiteRequest
from softguard.recipes.suites import evaluate_suites, summaries_of
from softguard.runs import RunDir
from tests.unit.recipes.test_suites import PROMPTS, data, make, silent  # noqa: F401

TINY = Budget(steps=2, seconds=600, candidates=3, tokens=2)
ATTACKED = SuiteRequest("malicious_instruct", "base64", "refusal", limit=2, attacks="all", budget=TINY)


def test_every_system_is_measured_under_attack_beside_the_wrappers(make, data):  # noqa: F811
    path = make("run", -1e9)  # this student refuses all that asks for it
    (summary,) = evaluate_suites(path, ATTACKED, data, silent)
    for system in ("base", "guarded", "system_prompt", "student"):
        metrics = summary.system(system).metrics
        for name in ("gcg_reduced", "soft_embedding_reduced"):
            assert metrics[f"attack_success_rate:{name}"].n == 2
        assert metrics["attack_success_rate:any"].value == max(
            v.value for k, v in metrics.items() if k.startswith("attack_success_rate") and "any" not in k
        )
    assert summary.system("student").metrics["attack_success_rate:gcg_reduced"].value == 0
    assert summary.system("base").metrics["attack_success_rate:gcg_reduced"].value == 1
    assert metric_info("attack_success_rate:gcg_reduced").label.endswith("gcg reduced")
    assert sum("REDUCED" in line and "2 prompts" in line for line in summary.limits) == 2
    facts = summary.provenance["asked"]["attacks"]["gcg_reduced"]
    assert facts["budget"]["steps"] == 2
    assert facts["spent"]["student"]["steps"] == 2
    ((folder, read),) = summaries_of(RunDir.open(path))
    assert read == summary
    text = (path / "evaluations" / folder / "samples.jsonl").read_text()
    wrappers = {(line["system"], line["wrapper"]) for line in map(json.loads, text.splitlines())}
    assert {("student", "gcg_reduced"), ("guarded", "soft_embedding_reduced")} <= wrappers
    assert not any(prompt in json.dumps({**json.loads(line), "response": ""}) for prompt in PROMPTS for line in text.splitlines())


def test_a_kill_loses_one_prompt_and_the_budget_is_part_of_the_key(make, data, monkeypatch):  # noqa: F811
    path, one, made = make("run", 0.0), attacking._one, []

    def failing(attack, system, request, *rest):
        if len(made) == 3:
            made.append(None)
            raise KeyboardInterrupt
        made.append((attack.title, system.name, request))
        return one(attack, system, request, *rest)

    monkeypatch.setattr(attacking, "_one", failing)
    with pytest.raises(KeyboardInterrupt):
        evaluate_suites(path, ATTACKED, data, silent)
    first = evaluate_suites(path, ATTACKED, data, silent)
    done = [m for m in made if m]
    assert len(done) == len(set(done)) == 2 * 3 * 2  # attacks, systems, prompts: none twice
    assert evaluate_suites(path, ATTACKED, data, silent) == first
    assert len([m for m in made if m]) == 12
    longer = SuiteRequest("malicious_instruct", "", "refusal", systems="student", limit=1, attacks="gcg", budget=Budget(1, 9, 2))
    evaluate_suites(path, longer, data, silent)
    assert len([m for m in made if m]) == 13


def test_two_runs_under_the_same_attack_can_be_compared(make, data):  # noqa: F811
    request = SuiteRequest("malicious_instruct", "", "refusal", limit=1, attacks="gcg", budget=TINY)
    folders = []
    for name, seed in (("a", 0), ("b", 1)):
        path = make(name, 0.0, seed=seed)
        evaluate_suites(path, request, data, silent)
        folders.append(summaries_of(RunDir.open(path))[0][0])
    assert folders[0] == folders[1]


def test_bad_requests_are_errors_before_anything_is_loaded():
    for wrong in (SuiteRequest("xstest", attacks="gcq"), SuiteRequest("xstest", attacks="gcg", budget=Budget(steps=0))):
        with pytest.raises(ConfigError):
            wrong.checked()
