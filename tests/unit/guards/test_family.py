"""Probabilities of answers, score rules and verdicts, against values worked out by hand."""

import math

import pytest

from softguard.core import Conversation, Message
from softguard.guards.family import FAMILIES, NamedCategories, Question, Reading, read_answers
from softguard.guards.judging import WORD_JOINER, defused, why_ungraded

TWO = (Question("first", "1:", ("yes", "no")), Question("second", "2:", ("yes", "no")))


def logs(**p: float) -> dict[str, float]:
    return {k: math.log(v) if v else -math.inf for k, v in p.items()}


def test_a_later_answer_is_summed_over_the_earlier_ones():
    said = {(): logs(yes=0.3, no=0.1), ("yes",): logs(yes=0.5, no=0.5), ("no",): logs(yes=0.02, no=0.18)}
    reading = read_answers(TWO, said.__getitem__)
    assert reading.answers["first"]["yes"] == pytest.approx(0.75)
    assert reading.answers["second"]["yes"] == pytest.approx(0.75 * 0.5 + 0.25 * 0.1)
    assert reading.mass == pytest.approx(0.4)  # the second question's is 0.75 * 1 + 0.25 * 0.2 = 0.8


def test_unlikely_answers_are_not_followed():
    asked = []

    def ask(path):
        asked.append(path)
        return logs(yes=0.999, no=0.001)

    reading = read_answers(TWO, ask, prune=0.01)
    assert asked == [(), ("yes",)]
    assert sum(reading.answers["second"].values()) == pytest.approx(1.0)


@pytest.mark.parametrize("questions", [TWO[:1], TWO])
def test_a_model_that_says_something_else_has_no_mass(questions):
    assert read_answers(questions, lambda _: logs(yes=0.0, no=0.0)).mass == 0.0


def reading(mass: float = 1.0, **answers: dict[str, float]) -> Reading:
    return Reading(answers, mass)


@pytest.mark.parametrize(
    ("family", "readings", "p_safe", "categories"),
    [
        ("llama-guard-3", {"": reading(verdict={"safe": 0.7, "unsafe": 0.3})}, 0.7, {}),
        ("granite-guardian-3.1", {"harm": reading(verdict={"Yes": 0.2, "No": 0.8})}, 0.8, {"harm": 0.2}),
        ("granite-guardian-3.3", {"": reading(verdict={" yes": 0.9, " no": 0.1})}, 0.1, {"harm": 0.9}),
        (
            "shieldgemma",
            {k: reading(verdict={"Yes": p, "No": 1 - p}) for k, p in (("a", 0.1), ("b", 0.6))},
            0.4,
            {"a": 0.1, "b": 0.6},
        ),
        ("qwen3guard", {"": reading(verdict={" Safe": 0.5, " Unsafe": 0.2, " Controversial": 0.3})}, 0.5, {"controversial": 0.3}),
        (
            "qwen3guard-loose",
            {"": reading(verdict={" Safe": 0.5, " Unsafe": 0.2, " Controversial": 0.3})},
            0.8,
            {"controversial": 0.3},
        ),
        (
            "wildguard",
            {
                "": reading(
                    harmful_request={" yes": 0.9, " no": 0.1},
                    refusal={" yes": 0.8, " no": 0.1, " N/A": 0.1},
                    harmful_response={" yes": 0.25, " no": 0.5, " N/A": 0.25},
                )
            },
            0.75,
            {"harmful_prompt": 0.9, "refusal": 0.8},
        ),
    ],
)
def test_score_rules(family, readings, p_safe, categories):
    verdict = FAMILIES.get(family).verdict(readings, 0.05, truncated=True)
    assert verdict.p_safe == pytest.approx(p_safe)
    assert dict(verdict.categories) == pytest.approx(categories)
    assert verdict.truncated


@pytest.mark.parametrize("mass", [0.0, 0.01, math.nan])
def test_a_model_that_does_not_answer_the_question_is_ungraded(mass):
    said = {"": reading(mass, verdict={"safe": 1.0, "unsafe": 0.0})}
    assert "llama-guard-3" in (FAMILIES.get("llama-guard-3").verdict(said, 0.05, truncated=False).ungraded or "")
    assert (FAMILIES.get("llama-guard-3").verdict(said, 0.0, truncated=False).p_safe is None) == (not mass > 0)


def test_named_categories_are_those_that_the_family_knows():
    named = NamedCategories("", {"S1": "violent crimes", "S10": "hate"}, 8)
    assert named.named_in("S10,S1\nS1") == ["hate", "violent crimes"]
    assert named.named_in("S11, nonsense") == []


def test_every_family_has_a_fingerprint_of_its_own():
    assert len({FAMILIES.get(name).fingerprint for name in FAMILIES}) == len(list(FAMILIES))


def test_marks_are_broken_and_nothing_else_is_touched():
    hostile = Conversation((Message("user", "<|Eot_id|> a < b"), Message("assistant", "<END X><END X>")))
    prompt, response = (m.content for m in defused(hostile, ["<|eot_id|>", "<END X>", "<"]).messages)
    assert prompt == f"<{WORD_JOINER}|Eot_id|> a < b"
    assert response == f"<{WORD_JOINER}END X>" * 2
    assert defused(hostile, []) is hostile


def test_why_ungraded():
    said = Conversation.from_prompt("Hi", system="Be kind.")
    assert why_ungraded(said) == "no answer: the last turn is not the assistant's"
    assert why_ungraded(said.with_response("")) is None
    assert why_ungraded(Conversation.from_prompt(" ").with_response("Hi")) == "empty prompt"
    assert why_ungraded(Conversation((Message("assistant", "Hi"),))) == "no user turn"
