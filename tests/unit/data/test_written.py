"""The answers that we wrote for the embedded guard: whole, of like form on both sides, and apart from what is held out."""

from statistics import median

import pytest

from softguard.data import load_prompts, mentions_minors
from softguard.data.written import AnsweredPrompt, answered_prompts


@pytest.fixture(scope="module", params=[False, True], ids=["short", "long"])
def answered(request: pytest.FixtureRequest) -> list[AnsweredPrompt]:
    return answered_prompts(long=request.param)


def test_every_prompt_has_answers_and_is_for_training(answered: list[AnsweredPrompt]) -> None:
    assert len({a.row.id for a in answered}) == len({a.row.prompt for a in answered}) == len(answered)
    for a in answered:
        assert a.row.split == "train"
        assert a.row.topic
        assert a.answers
        assert all(x.text.strip() for x in a.answers)
        assert a.row.label in ("harmful", "look_alike", "benign")


def test_the_prompt_set_is_that_of_the_short_answers() -> None:
    """Studies and configs draw from it by seed: more rows would be another draw."""
    assert [a.row for a in answered_prompts()] == load_prompts("softguard_pairs")
    assert not {a.row.prompt for a in answered_prompts()} & {a.row.prompt for a in answered_prompts(long=True)}


def test_nothing_harmful_speaks_of_minors(answered: list[AnsweredPrompt]) -> None:
    assert not any(mentions_minors(a.row.prompt) for a in answered if a.row.label == "harmful")
    assert not any(mentions_minors(x.text) for a in answered for x in a.answers if x.unsafe)


def test_most_harmful_prompts_have_answers_of_both_kinds(answered: list[AnsweredPrompt]) -> None:
    harmful = [a for a in answered if a.row.label == "harmful"]
    assert sum(len({x.unsafe for x in a.answers}) == 2 for a in harmful) > 0.9 * len(harmful)


def test_length_does_not_betray_harm(answered: list[AnsweredPrompt]) -> None:
    words = {
        u: median(len(x.text.split()) for a in answered if a.row.label == "harmful" for x in a.answers if x.unsafe == u)
        for u in (True, False)
    }
    assert abs(words[True] - words[False]) < 6


def test_no_prompt_is_one_of_the_held_out(answered: list[AnsweredPrompt]) -> None:
    held_out = {r.prompt.lower() for r in load_prompts("softguard") if r.split != "train"}
    assert not held_out & {a.row.prompt.lower() for a in answered}


def test_long_answers_are_long() -> None:
    assert all(40 <= len(x.text.split()) <= 120 for a in answered_prompts(long=True) for x in a.answers)
