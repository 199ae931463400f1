"""The soft prompt's own: placement, start, what PEFT is given."""

from pathlib import Path

import pytest
import torch

from softguard.adapters import SoftPrompt, SoftPromptConfig
from softguard.core import Conversation
from softguard.errors import CompatibilityError
from softguard.models import ChatRenderer, refusal_log_odds, response_states, sample
from tests.fakes import tiny_model

KINDS = ["llama", "qwen2", "gemma2", "gemma3", "gpt2"]
LAYOUTS = {
    "front": [],
    "after_bos": [{"slot": "after_bos", "count": 4}],
    "after_user": [{"slot": "after_user", "count": 4}],
    "after_header": [{"slot": "after_header", "count": 4}],
    "system": [{"slot": "system", "count": 4}],
    "split": [{"slot": "front", "count": 3}, {"slot": "after_user", "count": 1}],
}


def make(lm, layout="front", initialisation="text"):
    config = SoftPromptConfig(num_virtual_tokens=4, placement=LAYOUTS[layout], initialisation=initialisation)
    return SoftPrompt.create(config, lm, seed=0)


def rendered(lm, text="hello"):
    return ChatRenderer(lm.tokenizer).render(Conversation.from_prompt(text))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_virtual_token_learns(layout):
    lm = tiny_model()
    adapter = make(lm, layout)
    states = response_states(lm, [adapter.extend(rendered(lm))], [[5, 6, 7]], adapter.virtual_tokens())
    lm.head(states.states).sum().backward()
    assert adapter.parameters()[0].grad.abs().sum(1).gt(0).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_placement_is_where_it_says(layout):
    lm = tiny_model(bos=layout == "after_bos")
    prompt = rendered(lm)
    ids = make(lm, layout).extend(prompt)
    assert (ids[0] >= 0) == (layout in ("after_bos", "after_user", "after_header", "system"))
    assert [i for i in ids if i >= 0] == list(prompt.ids)
    assert sorted(-i - 1 for i in ids if i < 0) == [0, 1, 2, 3]
    text = lm.tokenizer.decode([i for i in ids[ids.index(-4) :] if i >= 0])
    expected = {"after_user": "<|im_start|>assistant", "split": "<|im_start|>assistant", "system": "<|im_end|>"}
    assert (text == "") == (layout == "after_header")
    assert text.startswith(expected.get(layout, "" if layout == "after_header" else "<|im_start|>system"))


@pytest.mark.parametrize("layout", ["front", "after_header"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_of_real_embeddings_equals_its_text(kind, layout):
    """Where it decides, and along an answer: after the header its last vector predicts the first token."""
    lm = tiny_model(kind)
    ids = [3, 4, 5, 6]
    adapter = make(lm, layout)
    with torch.no_grad():
        adapter.parameters()[0].copy_(lm.embed(torch.tensor([ids]))[0])
    prompt = rendered(lm)
    text = [*ids, *prompt.ids] if layout == "front" else [*prompt.ids, *ids]
    a = refusal_log_odds(lm, [adapter.extend(prompt)], 9, adapter.virtual_tokens())
    assert a == pytest.approx(refusal_log_odds(lm, [text], 9), abs=1e-4)
    learned, written = (
        response_states(lm, [p], [[7, 8]], v).states
        for p, v in ((adapter.extend(prompt), adapter.virtual_tokens()), (text, None))
    )
    torch.testing.assert_close(learned, written, rtol=1e-4, atol=1e-4)


def test_sampling_does_not_depend_on_the_batch():
    lm = tiny_model()
    prompts = [list(rendered(lm, t).ids) for t in ("a", "bb", "a longer one")]
    options = {"max_new_tokens": 8, "temperature": 1.0, "seed": 3, "refusal_token": 9}
    together = sample(lm, prompts, ["1", "2", "3"], **options)
    assert sample(lm, prompts[2:], ["3"], **options)[0].ids == together[2].ids
    assert sample(lm, prompts[2:], ["4"], **options)[0].ids != together[2].ids


@pytest.mark.parametrize("initialisation", ["text", "vocabulary_sample", "random"])
def test_save_and_load(tmp_path: Path, initialisation):
    lm = tiny_model()
    adapter = make(lm, "split", initialisation)
    adapter.save(tmp_path, lm)
    loaded = SoftPrompt.load(tmp_path)
    assert torch.equal(loaded.virtual_tokens(), adapter.virtual_tokens())
    assert loaded.config == adapter.config


def test_peft_gets_a_config_only_for_what_it_can_load(tmp_path: Path):
    lm = tiny_model()
    for layout in LAYOUTS:  # "front" is the first: what it leaves would mislead PEFT about the next
        make(lm, layout).save(tmp_path, lm)
        assert (tmp_path / "adapter_config.json").exists() == (layout == "front")


@pytest.mark.parametrize("kind", KINDS)
def test_noise_starts_at_the_scale_of_the_networks_input(kind):
    """Gemma scales its embeddings, so that the table's own scale is another."""
    lm = tiny_model(kind)
    config = SoftPromptConfig(num_virtual_tokens=256, initialisation="random")
    scale = lm.embed(torch.arange(258)[None]).std()
    assert SoftPrompt.create(config, lm, 0).virtual_tokens().std().item() == pytest.approx(scale.item(), rel=0.1)


def test_a_slot_that_the_template_lacks_is_an_error():
    lm = tiny_model()
    turns = "{% for m in messages %}{{ m['content'] }}|{% endfor %}"
    lm.tokenizer.chat_template = turns + "{% if add_generation_prompt %}A:{% endif %}"
    with pytest.raises(CompatibilityError, match="slot"):
        rendered(lm).insert([("nowhere", 1)])
