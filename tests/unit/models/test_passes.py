"""Edges of sampling and scoring: an empty response, a device without float64, a model that asks to run its own code."""

import json

import pytest
import torch

from softguard.core import Conversation
from softguard.errors import CompatibilityError, SourceError
from softguard.models import ChatRenderer, load_model, response_states
from softguard.models.drawing import drawing_device
from tests.fakes import byte_tokenizer, tiny_model


def test_an_empty_response_has_no_states_and_shifts_no_other():
    lm = tiny_model()
    prompts = [[5, 6, 7], [5, 6, 7], [8, 9]]
    scored = response_states(lm, prompts, [[1, 2], [], [3]])
    assert len(scored.states) == len(scored.targets) == 3
    assert scored.row.tolist() == [0, 0, 2]
    alone = response_states(lm, prompts[2:], [[3]])
    assert torch.allclose(scored.states[2:], alone.states, atol=1e-5)
    nothing = response_states(lm, prompts[:1], [[]])
    assert (len(nothing.states), nothing.targets.dtype) == (0, torch.long)


def test_draws_are_made_where_float64_exists():
    assert drawing_device(torch.device("mps")).type == "cpu"
    assert drawing_device(torch.device("cpu")).type == "cpu"
    assert drawing_device(torch.device("cuda", 1)) == torch.device("cuda", 1)


def test_a_model_with_code_of_its_own_is_refused_without_a_question(tmp_path, monkeypatch):
    lm = tiny_model()
    lm.network.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    classes = {"AutoConfig": "theirs.TheirConfig", "AutoModelForCausalLM": "theirs.TheirModel"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "theirs", "auto_map": classes}))
    (tmp_path / "theirs.py").write_text("raise SystemExit('ran')\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    with pytest.raises(SourceError, match="causal language model"):
        load_model(str(tmp_path))


def test_the_gradient_of_virtual_tokens_is_the_same_on_any_number_of_threads():
    """Indexing would sum the gradients of a repeated row in the order in which threads come."""
    lm = tiny_model()
    ids = -torch.randint(1, 5, (64, 40), generator=torch.Generator().manual_seed(0))
    given = torch.randn(64, 40, lm.width, generator=torch.Generator().manual_seed(1))
    before, gradients = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 2, 2):
            torch.set_num_threads(threads)
            virtual = torch.zeros(4, lm.width, requires_grad=True)
            (lm.embed(ids, virtual) * given).sum().backward()
            gradients.append(virtual.grad)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(gradients[0], g) for g in gradients[1:])


def test_a_template_is_given_to_a_model_that_has_none_and_to_no_other(tmp_path):
    tokenizer = byte_tokenizer()
    template, tokenizer.chat_template = tokenizer.chat_template, None
    tiny_model().network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    how = {"dtype": torch.float32, "device": "cpu"}
    without, with_one = load_model(str(tmp_path), **how), load_model(str(tmp_path), **how, chat_template=template)
    with pytest.raises(CompatibilityError, match="chat template"):
        ChatRenderer(without.tokenizer)
    prompt = ChatRenderer(with_one.tokenizer).render(Conversation.from_prompt("Hi"))
    assert with_one.tokenizer.decode(prompt.ids).endswith("assistant\n")
    assert with_one.fingerprint != without.fingerprint  # drafts are those of a template
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(CompatibilityError, match=r"leave model\.chat_template empty"):
        load_model(str(tmp_path), **how, chat_template=template)
