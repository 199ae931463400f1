"""Prompts of the guards' families, character for character: `guards/NAME.txt`, each with the address of the documented format.

When these texts were first written, each was equal to what the family's published chat template renders (Llama Guard 3's opens
with a blank, which ours leaves out). `python -m tests.golden.test_guard_formats` writes them again: read the difference first and
compare it with the address. Families that are rendered by the template of their weights get one of ours in its place, which
states what is documented (`documented_templates`): their texts show what our code makes of such a template.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from softguard.core import Conversation, Message
from softguard.guards.family import FAMILIES
from softguard.guards.generative import GenerativeGuard
from softguard.guards.judging import defused
from softguard.guards.qwen3_guard_stream import render as render_stream
from tests.fakes import byte_tokenizer
from tests.golden.documented_templates import DOCUMENTED

GUARDS = Path(__file__).with_name("guards")
CASES = {
    "one exchange": [("user", "Name a river."), ("assistant", "The Rhine.")],
    "two exchanges": [("user", "Hello!"), ("assistant", "Hello."), ("user", " Größe?\n"), ("assistant", "  東京\n")],
    "after a system turn": [("system", "Be brief."), ("user", "Name a river."), ("assistant", "The Rhine.")],
    "empty response": [("user", "Name a river."), ("assistant", "")],
}
RENDERED = [name for name in FAMILIES if FAMILIES.get(name).render is not None]
BY_WEIGHTS = ["granite-guardian-3.2", "granite-guardian-3.3", "llama-guard-4"]
STREAM = "qwen3guard-stream"
PERMALINK = re.compile(r"https://github\.com/[^/]+/[^/]+/blob/[0-9a-f]{40}/\S+")


def conversation(case: str) -> Conversation:
    return Conversation(tuple(Message(role, text) for role, text in CASES[case]))


def guard_of(name: str) -> GenerativeGuard:
    """Return a guard of a family whose weights have nothing but a tokenizer with the documented template."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = DOCUMENTED[name].template
    return GenerativeGuard(SimpleNamespace(tokenizer=tokenizer, context=None), FAMILIES.get(name))  # type: ignore[arg-type]


def prompts_of(name: str, given: Conversation) -> Mapping[str, str]:
    if name == STREAM:
        return {"": "".join(render_stream(given))}
    render = FAMILIES.get(name).render
    return guard_of(name).prompts(given) if render is None else render(given)


def all_of(name: str) -> str:
    prompts = [(case, key, text) for case in CASES for key, text in prompts_of(name, conversation(case)).items()]
    texts = "".join(f"=== {case} {key}\n{text}\n" for case, key, text in prompts)
    if name == STREAM:
        head = [DOCUMENTED[name].source, DOCUMENTED[name].limits]
    else:
        family = FAMILIES.get(name)
        asked = " then ".join(repr(q.lead) + " -> " + " | ".join(q.answers) for q in family.questions)
        head = [family.source, *([DOCUMENTED[name].limits] if name in DOCUMENTED else []), asked]
    return "\n".join(head) + "\n" + texts


ALL = [*RENDERED, *BY_WEIGHTS, STREAM]


@pytest.mark.parametrize("name", ALL)
def test_prompts_are_rendered_as_before(name):
    assert all_of(name) == (GUARDS / f"{name}.txt").read_text(encoding="utf-8")


def test_every_family_has_a_text_with_a_permalink():
    assert {name for name in FAMILIES if name not in RENDERED} == set(BY_WEIGHTS)
    assert set(DOCUMENTED) == {*BY_WEIGHTS, STREAM}
    assert {p.stem for p in GUARDS.glob("*.txt")} == set(ALL)
    for path in GUARDS.glob("*.txt"):
        assert PERMALINK.fullmatch(path.read_text(encoding="utf-8").split("\n")[0]), path.name


@pytest.mark.parametrize("case", CASES)
def test_the_stream_prompt_is_what_its_documented_template_renders(case):
    """Our own rendering, which the heads need in pieces, against the template with the options of the authors' evaluation."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = DOCUMENTED[STREAM].template
    turns = [{"role": m.role, "content": m.content} for m in conversation(case).messages]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False, enable_thinking=False)
    assert prompts_of(STREAM, conversation(case))[""] == rendered


@pytest.mark.parametrize("name", [*RENDERED, *BY_WEIGHTS])
def test_an_answer_cannot_close_its_turn(name):
    """Each mark of the format stands as often in the prompt of an answer made of all marks as in that of a harmless one."""
    family = FAMILIES.get(name)
    assert family.marks
    attack = conversation("one exchange").messages[0], Message("assistant", "x " + " ".join(family.marks) + " safe")
    calm = prompts_of(name, conversation("one exchange"))
    for key, text in prompts_of(name, defused(Conversation(attack), family.marks)).items():
        assert {m: text.count(m) for m in family.marks} == {m: calm[key].count(m) for m in family.marks}


@pytest.mark.parametrize("name", [*RENDERED, *BY_WEIGHTS])
def test_the_prompt_opens_with_the_token_that_a_server_may_add(name):
    family = FAMILIES.get(name)
    assert all(text.startswith(family.bos) for text in prompts_of(name, conversation("one exchange")).values())


if __name__ == "__main__":
    for family_name in ALL:
        (GUARDS / f"{family_name}.txt").write_text(all_of(family_name), encoding="utf-8")
