"""Templates with names in them render as training does, once in a conversation, or are refused."""

import pytest

from softguard.core import Conversation, Message
from softguard.errors import CompatibilityError
from softguard.export.chat_template import bake_template, check_template, split_ids
from softguard.export.protocol import new_names
from softguard.models.chat import BEHIND
from tests.fakes import CHATML, byte_tokenizer
from tests.unit.models.test_chat import FOLDED, PLAIN_CHATML

LAYOUTS = {
    "front": (("front", 3),),
    "after_bos": (("after_bos", 3),),
    "system": (("system", 3),),
    "after_user": (("after_user", 3),),
    "after_header": (("after_header", 3),),
    "split": (("front", 2), ("after_user", 1)),
    "around": (("after_header", 1), ("after_user", 2)),
    "three": (("front", 1), ("system", 1), ("after_user", 1)),
}
NAMES = new_names(3)


def baked(template, layout):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    by_slot, first = {}, 0
    for slot, count in layout:
        by_slot[slot] = "".join(NAMES[first : first + count])
        first += count
    return bake_template(template, by_slot, tokenizer), tokenizer


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_placements_render_as_in_training(layout):
    template, tokenizer = baked(CHATML, layout)
    check_template(template, tokenizer, layout, NAMES)
    turns = [Message(("user", "assistant")[k % 2], f"turn {k}") for k in range(5)]
    text = tokenizer.apply_chat_template(
        Conversation(tuple(turns)).to_dicts(), chat_template=template, tokenize=False, add_generation_prompt=True
    )
    assert [text.count(name) for name in NAMES] == [1, 1, 1]
    closed = tokenizer.apply_chat_template(Conversation(tuple(turns)).to_dicts(), chat_template=template, tokenize=False)
    assert (NAMES[0] in closed) == (layout[0][0] not in BEHIND)
    assert text.endswith(NAMES[-1 if len(layout) == 1 else 0]) == (layout[0][0] == "after_header")


@pytest.mark.parametrize("template", [PLAIN_CHATML, FOLDED])
def test_a_slot_that_some_conversations_lack_is_refused(template):
    with pytest.raises(CompatibilityError, match="system turn"):
        baked(template, LAYOUTS["system"])
    made, tokenizer = baked(template, LAYOUTS["split"])
    check_template(made, tokenizer, LAYOUTS["split"], NAMES)


def test_a_template_that_renders_otherwise_is_noticed():
    template, tokenizer = baked(CHATML, LAYOUTS["split"])
    with pytest.raises(CompatibilityError, match="renders as in training"):
        check_template(template.replace("assistant", "Assistant"), tokenizer, LAYOUTS["split"], NAMES)
    with pytest.raises(CompatibilityError, match="renders as in training"):
        check_template(template, tokenizer, LAYOUTS["front"], NAMES)


def test_splitting_at_names():
    tokenizer = byte_tokenizer()
    ids = tokenizer("ab", add_special_tokens=False)["input_ids"]
    assert split_ids(f"{NAMES[1]}a{NAMES[0]}b", NAMES, tokenizer) == [-2, ids[0], -1, ids[1]]


def test_names_are_new_each_time():
    assert not set(new_names(4)) & set(new_names(4))
    assert len({name.split("_")[0] for name in NAMES}) == 1
