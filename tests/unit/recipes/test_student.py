"""What a system of a model and an adapter says of itself."""

import pytest

from softguard.core import REFUSAL_TEXT, Conversation, ReplySettings
from softguard.recipes.student import ModelSystem
from tests.fakes import tiny_model

GERMAN = "Dabei helfe ich nicht."


@pytest.fixture(scope="module")
def lm():
    return tiny_model()


def test_our_system_prompt_stands_before_the_conversations_own(lm):
    own = Conversation.from_prompt("hi", system="be brief")
    base, prompted = ModelSystem("base", lm), ModelSystem("system_prompt", lm, system_prompt="refuse harm")
    text = lm.tokenizer.decode(prompted.prompt_ids(own))
    assert "system\nrefuse harm\n\nbe brief<|im_end|>" in text
    assert "be brief" in lm.tokenizer.decode(base.prompt_ids(own))
    assert "system\nrefuse harm<|im_end|>" in lm.tokenizer.decode(prompted.prompt_ids(Conversation.from_prompt("hi")))


def test_a_reply_says_whether_it_refuses_whatever_the_language(lm, monkeypatch):
    prompts, ids = [Conversation.from_prompt("hi")], ["1"]
    refusing = ModelSystem("student", lm, threshold=-1e9, refusal_text=GERMAN)
    reply = refusing.respond(prompts, ids, ReplySettings(4))[0]
    assert (reply.text, reply.refused) == (GERMAN, True)
    system = ModelSystem("system_prompt", lm, refusal_text=GERMAN)
    assert not system.respond(prompts, ids, ReplySettings(4))[0].refused
    for said, truncated, refused in (
        (f"{GERMAN} Frag etwas anderes.", False, True),
        (GERMAN[:12], True, True),  # cut at the token limit
        (GERMAN[:12], False, False),
        ("", True, False),
        (REFUSAL_TEXT, False, False),  # another system's words: the pattern counts these, not this flag
    ):
        assert system.says_refusal(said, truncated) == refused
