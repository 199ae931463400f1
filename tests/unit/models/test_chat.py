"""What a chat template says of turns: the token that closes one, and where the system turn ends."""

import pytest
from tokenizers import AddedToken

from softguard.core import Conversation
from softguard.models import ChatRenderer, LanguageModel
from softguard.models.chat import turn_end
from tests.fakes import byte_tokenizer, tiny_model

PLAIN_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FOLDED = (  # Gemma's way: the system's text opens the user's turn
    "{% set first = messages[0]['content'] + '\n\n' if messages[0]['role'] == 'system' else '' %}"
    "{% for m in messages if m['role'] != 'system' %}[{{ m['role'] }}]{{ first if loop.first }}{{ m['content'] }}<end>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def tokenizer(template, *tokens):
    made = byte_tokenizer()
    made.add_tokens([AddedToken(t, special=True) for t in tokens])
    made.chat_template = template
    return made


def test_the_turn_token_is_the_templates_and_eos_where_it_has_none():
    lm = tiny_model()
    assert lm.turn_end_id == lm.tokenizer.eos_token_id
    gemma = tokenizer(FOLDED, "<end>")
    end = gemma.convert_tokens_to_ids("<end>")
    assert end != gemma.eos_token_id
    made = LanguageModel(lm.network, gemma, "gemma-like", "f")
    assert made.turn_end_id == end
    assert {end, gemma.eos_token_id} <= made.stop_ids
    assert turn_end(tokenizer(FOLDED)) is None  # "<end>" is plain text here
    for lacking in (FOLDED, None, "{{ raise_exception('one turn only') if messages | length > 1 }}{{ messages[0]['content'] }}"):
        made = LanguageModel(lm.network, tokenizer(lacking), "without", "f")
        assert made.turn_end_id == lm.tokenizer.eos_token_id


HISTORY = [("user", "a"), ("assistant", "b"), ("user", "c")]


def system_end(template, turns):
    """Return the text before the slot, None where there is no slot."""
    made = tokenizer(template)
    turns = [{"role": role, "content": content} for role, content in turns]
    prompt = ChatRenderer(made).render(Conversation.from_dicts(turns))
    return made.decode(prompt.ids[: prompt.slots["system"]]) if "system" in prompt.slots else None


@pytest.mark.parametrize("turns", [HISTORY[:1], HISTORY])
def test_without_a_system_turn_there_is_no_end_of_one(turns):
    assert system_end(PLAIN_CHATML, turns) is None
    assert system_end(FOLDED, [("user", "a\n\nb"), *turns[1:]]) is None


@pytest.mark.parametrize("turns", [HISTORY[:1], HISTORY])
@pytest.mark.parametrize("content", ["be brief", " one\n\ntwo "])
def test_the_slot_stands_at_the_end_of_the_systems_own_text(turns, content):
    assert system_end(PLAIN_CHATML, [("system", content), *turns]) == f"<|im_start|>system\n{content}"
    assert system_end(FOLDED, [("system", content), *turns]) == f"[user]{content}"
