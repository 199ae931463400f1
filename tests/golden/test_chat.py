"""Rendered prompts, character for character, with every slot for virtual tokens marked in the text.

`chat/NAME.jinja` is a chat template (SmolLM2's own, Apache-2.0; one that knows no system turn and has a BOS of its own),
`chat/NAME.txt` what comes of it. `python -m tests.golden.test_chat` writes the texts again: read the difference first.
"""

from pathlib import Path

import pytest

from softguard.core import Conversation
from softguard.models import ChatRenderer
from tests.fakes import byte_tokenizer

CHAT = Path(__file__).with_name("chat")
TURNS = {
    "one turn": [("user", "Name a river.")],
    "after a system turn": [("system", "Be brief."), ("user", "Name a river.")],
    "with a history": [("user", "Hello!"), ("assistant", "Hello."), ("user", "Größe 東京?\n")],
}
TEMPLATES = {"smollm2": list(TURNS), "no_system": ["one turn", "with a history"]}


def renderer(name: str):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (CHAT / f"{name}.jinja").read_text(encoding="utf-8")
    return tokenizer, ChatRenderer(tokenizer)


def marked(name: str, case: str) -> str:
    """Return the rendered prompt with `{slot}` in front of what each slot stands before."""
    tokenizer, chat = renderer(name)
    messages = [{"role": role, "content": content} for role, content in TURNS[case]]
    prompt = chat.render(Conversation.from_dicts(messages))
    pieces = [""]
    order = sorted(prompt.slots.items(), key=lambda item: (item[1], item[0]))
    for (slot, start), end in zip(order, [*(index for _, index in order[1:]), len(prompt.ids)], strict=True):
        pieces.append(f"{{{slot}}}{tokenizer.decode(prompt.ids[start:end])}")
    return "".join(pieces)


def test_an_answer_that_was_begun_comes_after_the_header():
    """Only the last header has virtual tokens: those of earlier turns are history, as answers are."""
    tokenizer, chat = renderer("smollm2")
    turns = [("user", "Hello!"), ("assistant", "Hello."), ("user", "Name a river."), ("assistant", "Sure, here")]
    prompt = chat.render(Conversation.from_dicts([{"role": role, "content": content} for role, content in turns]))
    ids = prompt.insert([("after_header", 2), ("after_user", 1)])
    pieces = [tokenizer.decode([i]) if i >= 0 else f"{{{-i}}}" for i in ids]
    assert "".join(pieces).endswith(
        "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
        "<|im_start|>user\nName a river.<|im_end|>\n{3}<|im_start|>assistant\n{1}{2}Sure, here"
    )
    assert sum(i < 0 for i in ids) == 3


def all_of(name: str) -> str:
    return "".join(f"=== {case}\n{marked(name, case)}\n" for case in TEMPLATES[name])


@pytest.mark.parametrize("name", TEMPLATES)
def test_prompts_are_rendered_as_before(name):
    assert all_of(name) == (CHAT / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_are_those_of_the_template(name):
    tokenizer, chat = renderer(name)
    for case in TEMPLATES[name]:
        messages = [{"role": role, "content": content} for role, content in TURNS[case]]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert tokenizer.decode(chat.render(Conversation.from_dicts(messages)).ids) == text


if __name__ == "__main__":
    for name in TEMPLATES:
        (CHAT / f"{name}.txt").write_text(all_of(name), encoding="utf-8")
