"""Prompts of the guards' families, character for character: `guards/FAMILY.txt`.

When these texts were first written, each was equal to what the family's published chat template renders (the addresses are in the
guards' docstrings; Llama Guard 3's opens with a blank, which ours leaves out). `python -m tests.golden.test_guard_formats` writes
them again: read the difference first, and compare it with the template. Families without a text are rendered by the template
that comes with their weights.
"""

from pathlib import Path

import pytest

from softguard.core import Conversation, Message
from softguard.guards.family import FAMILIES
from softguard.guards.judging import defused

GUARDS = Path(__file__).with_name("guards")
CASES = {
    "one exchange": [("user", "Name a river."), ("assistant", "The Rhine.")],
    "two exchanges": [("user", "Hello!"), ("assistant", "Hello."), ("user", " Größe?\n"), ("assistant", "  東京\n")],
    "after a system turn": [("system", "Be brief."), ("user", "Name a river."), ("assistant", "The Rhine.")],
    "empty response": [("user", "Name a river."), ("assistant", "")],
}
RENDERED = [name for name in FAMILIES if FAMILIES.get(name).render is not None]
BY_WEIGHTS = {"granite-guardian-3.2", "granite-guardian-3.3", "llama-guard-4"}


def conversation(case: str) -> Conversation:
    return Conversation(tuple(Message(role, text) for role, text in CASES[case]))


def all_of(name: str) -> str:
    family = FAMILIES.get(name)
    assert family.render is not None
    asked = " then ".join(repr(q.lead) + " -> " + " | ".join(q.answers) for q in family.questions)
    prompts = [(case, key, text) for case in CASES for key, text in family.render(conversation(case)).items()]
    return f"{family.source}\n{asked}\n" + "".join(f"=== {case} {key}\n{text}\n" for case, key, text in prompts)


@pytest.mark.parametrize("name", RENDERED)
def test_prompts_are_rendered_as_before(name):
    assert all_of(name) == (GUARDS / f"{name}.txt").read_text(encoding="utf-8")


def test_every_family_has_a_text_or_its_weights_template():
    assert {name for name in FAMILIES if name not in RENDERED} == BY_WEIGHTS
    assert {p.stem for p in GUARDS.glob("*.txt")} == set(RENDERED)


@pytest.mark.parametrize("name", RENDERED)
def test_an_answer_cannot_close_its_turn(name):
    """Each mark of the format stands as often in the prompt of an answer made of all marks as in that of a harmless one."""
    family = FAMILIES.get(name)
    assert family.marks
    attack = conversation("one exchange").messages[0], Message("assistant", "x " + " ".join(family.marks) + " safe")
    calm = family.render(conversation("one exchange"))
    for key, text in family.render(defused(Conversation(attack), family.marks)).items():
        assert {m: text.count(m) for m in family.marks} == {m: calm[key].count(m) for m in family.marks}


@pytest.mark.parametrize("name", RENDERED)
def test_the_prompt_opens_with_the_token_that_a_server_may_add(name):
    family = FAMILIES.get(name)
    assert all(text.startswith(family.bos) for text in family.render(conversation("one exchange")).values())


if __name__ == "__main__":
    for family_name in RENDERED:
        (GUARDS / f"{family_name}.txt").write_text(all_of(family_name), encoding="utf-8")
