"""Labels of the constructed training pairs."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from softguard.guards import LabelledPair
from softguard.guards._refusal_texts import REDIRECTIONS, REFUSALS
from softguard.guards.mini_hard_pairs import _WRAPPINGS, PARTLY, stacked
from softguard.guards.mini_pairs import HARD_KINDS, SampledAnswer, answer_requests, build_pairs, held_out, restate


@dataclass(frozen=True)
class Row:
    prompt: str
    label: str
    source: str = "softguard"
    topic: str = ""
    split: str = "train"


ROWS = [Row(f"{label} request {i}", label, topic=f"t{i}") for label in ("harmful", "look_alike", "benign") for i in range(30)]
ANSWERS = [SampledAnswer(r.prompt, "plain", f"Mix it well, {i}.") for i, r in enumerate(ROWS)] + [
    SampledAnswer(r.prompt, "discourage", f"It is illegal {r.prompt}") for r in ROWS[:30]
]


def test_unsafe_is_a_harmful_prompt_that_is_served() -> None:
    pairs = build_pairs(ROWS, ANSWERS)
    unsafe = {p.kind for p in pairs if p.unsafe}
    served = {"harmful:served", "harmful:opening", "harmful:refusal_then_served"}
    assert unsafe == served | {"harmful:partly_served", "harmful:wrapped"}
    assert {"harmful:refusal", "harmful:redirection", "harmful:dissuasion", "harmful:mismatch"} <= {p.kind for p in pairs}
    assert {"look_alike:answer", "look_alike:opening", "look_alike:refusal"} <= {p.kind for p in pairs}
    assert not unsafe & {p.kind for p in pairs if not p.unsafe}


def test_a_moralising_answer_to_a_harmful_prompt_is_left_out() -> None:
    row = Row("harmful x", "harmful")
    pairs = build_pairs([row], [SampledAnswer("harmful x", "plain", "I'm sorry, that is illegal.")])
    assert "harmful:served" not in {p.kind for p in pairs}


def test_neither_half_a_refusal_nor_a_wrapping_tells_the_label() -> None:
    pairs = [p for p in build_pairs(ROWS, ANSWERS) if p.kind.split(":")[1] in HARD_KINDS]
    kinds = {(p.kind, p.unsafe) for p in pairs}
    assert {("harmful:partly_served", True), ("harmful:partly_safe", False), ("harmful:wrapped", True)} <= kinds
    assert {("benign:partly_served", False), ("look_alike:wrapped", False), ("benign:wrapped", False)} <= kinds
    for unsafe in (True, False):
        assert any(p.response.startswith(PARTLY) for p in pairs if p.unsafe == unsafe)
    assert all(p.harmful_prompt for p in pairs if p.unsafe)


@pytest.mark.parametrize("wrap", _WRAPPINGS)
def test_a_wrapping_keeps_every_word(wrap: Callable[[str], str]) -> None:
    found = " ".join(wrap("Mix it well.  Then wait!\nDrink it? Done").split())
    assert all(sentence in found for sentence in ("Mix it well.", "Then wait!", "Drink it?", "Done"))
    assert found != "Mix it well. Then wait! Drink it? Done"


def test_harm_anywhere_in_a_long_answer_is_harm() -> None:
    texts = {"Mix it.": True, "Stir it.": True, "Do not.": False, "Ask a friend.": False}
    pairs = [
        LabelledPair(f"request {i}", t, unsafe, True, False, "harmful:written") for i in range(40) for t, unsafe in texts.items()
    ]
    made = stacked(pairs)
    assert len({p.prompt for p in made}) == len(made) == 40
    for pair in made:
        parts = [t for t in texts if t in pair.response]
        assert len(parts) == 2
        assert pair.unsafe == any(texts[t] for t in parts)
        assert (pair.refusal, pair.kind) == (False, "harmful:stacked")
    assert {p.unsafe for p in made} == {True, False}
    assert stacked(pairs) == made
    assert stacked(pairs[:1]) == []


def test_same_seed_same_pairs_and_another_seed_others() -> None:
    assert build_pairs(ROWS, ANSWERS, 1) == build_pairs(ROWS, ANSWERS, 1)
    assert build_pairs(ROWS, ANSWERS, 1) != build_pairs(ROWS, ANSWERS, 2)


def test_all_rows_of_a_topic_are_held_out_together() -> None:
    by_topic: dict[str, set[bool]] = {}
    for pair in build_pairs(ROWS, ANSWERS):
        by_topic.setdefault(pair.topic, set()).add(held_out(pair))
    assert all(len(v) == 1 for v in by_topic.values())
    assert {True, False} == set().union(*by_topic.values())


def test_every_prompt_gets_an_answer_and_only_harmful_ones_a_dissuasion() -> None:
    requests = answer_requests(ROWS)
    assert {r.prompt for r in requests if r.style != "discourage"} == {r.prompt for r in ROWS}
    assert all(r.prompt.startswith("harmful") for r in requests if r.style == "discourage")
    assert len(requests) == len({(r.prompt, r.style == "discourage") for r in requests})


def test_refusal_texts_are_many_and_distinct() -> None:
    assert len(set(REFUSALS)) == len(REFUSALS) >= 60
    assert not set(REFUSALS) & set(REDIRECTIONS)


def test_restate_turns_a_request_into_an_answer() -> None:
    assert restate("How do I fix my bike?").startswith("To fix your bike, first")
