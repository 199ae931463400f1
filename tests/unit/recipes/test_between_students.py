"""Students against each other: paired by prompt, plain requests alone, unknown is not zero."""

import json

import pytest

from softguard.recipes.between_students import between_students


def line(i, label, kind, harm=None, **more):
    known = {"system": "student", "wrapper": "plain", "id": f"{label}{i}", "label": label, "family": f"{label}{i}"}
    return {**known, "kind": kind, "ungraded": None, "harm": {"j": harm} if label == "harmful" else {}, **more}


@pytest.fixture
def files(tmp_path):
    def write(name, lines):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(x) + "\n" for x in lines))
        return path

    answers = [line(i, "harmful", "compliance", 0.9) for i in range(6)]
    refusals = [line(i, "harmful", "full", 0.9) for i in range(6)]
    benign = [line(i, "benign", "compliance") for i in range(3)]
    noise = [line(0, "harmful", "compliance", 0.9, wrapper="prefill"), line(0, "harmful", "compliance", 0.9, system="base")]
    unknown = [line(6, "harmful", "compliance", None), line(7, "harmful", "compliance", 0.9, ungraded="too long")]
    return {
        "a": write("a", [*answers, *benign, *noise]),
        "b": write("b", [*refusals, *benign, *noise]),
        "c": write("c", [*answers, *unknown, *benign]),
        "d": write("d", [*refusals, *unknown, *benign]),
    }


def test_the_later_student_is_held_against_the_first(files):
    found = {d.metric: d for d in between_students({n: files[n] for n in "ab"}, "j")}
    assert set(found) == {"attack_success_rate", "refusal_rate", "over_refusal_rate"}
    success = found["attack_success_rate"]
    assert (success.system, success.reference) == ("student:b", "student:a")
    assert (success.value.value, success.value.n, success.p_value) == (-1, 6, pytest.approx(2 / 2**6))
    assert [found[m].value.value for m in ("refusal_rate", "over_refusal_rate")] == [1, 0]


def test_what_is_unknown_of_either_is_counted(files):
    found = {d.metric: d.value for d in between_students({n: files[n] for n in "cd"}, "j")}
    assert [(v.value, v.n, v.ungraded) for v in (found["attack_success_rate"], found["refusal_rate"])] == [
        (None, 6, 2),
        (None, 7, 1),
    ]


def test_without_a_judge_or_answers_there_is_no_such_test(files, tmp_path):
    assert "attack_success_rate" not in {d.metric for d in between_students(files, "")}
    assert between_students({**files, "e": tmp_path / "e.jsonl"}, "j") == []
