"""Sliding windows and absolute positions: what is shared, padded or cached says what the whole network says of a row alone."""

import pytest
import torch

from softguard.core import Conversation
from softguard.costs import ModelShape
from softguard.errors import CompatibilityError
from softguard.models import ChatRenderer, response_states, sample
from softguard.models.attention import GROUPED, grouped_attention, layer_windows
from tests.fakes import tiny_model

TEXTS = ("a", "a much longer request than that", "bcd")
WINDOWED = ["gemma2", "gemma3", "mistral", "phi3"]


def windowed(kind, window):
    """Return a model whose answers nothing ends, and prompts of unlike lengths that share a beginning."""
    lm = tiny_model(kind, window=window)
    object.__setattr__(lm, "stop_ids", frozenset())
    return lm, [list(ChatRenderer(lm.tokenizer).render(Conversation.from_prompt(t)).ids) for t in TEXTS]


@pytest.mark.parametrize("kind", [*WINDOWED, "gpt2"])
@pytest.mark.parametrize("window", [16, 32, 70, 512])
def test_cached_decoding_in_a_batch_is_the_networks_own_argmax(kind, window):
    lm, prompts = windowed(kind, window)
    drawn = sample(lm, prompts, ["1", "2", "3"], max_new_tokens=24, temperature=0.0, seed=0, refusal_token=9)
    for prompt, generation in zip(prompts, drawn, strict=True):
        with torch.no_grad():
            logits = lm.network(input_ids=torch.tensor([[*prompt, *generation.ids]])).logits[0]
        assert logits[len(prompt) - 1 : -1].argmax(-1).tolist() == list(generation.ids)


@pytest.mark.parametrize("kind", [*WINDOWED, "gpt2"])
@pytest.mark.parametrize("window", [16, 70, 300])
def test_scoring_is_the_networks_own(kind, window):
    lm, prompts = windowed(kind, window)
    responses = [[5, 6, 7], [8], [9, 10, 11]]
    ours = response_states(lm, [*prompts, prompts[0]], [*responses, [12, 13]]).states  # one prompt with two responses
    theirs = []
    for prompt, response in zip([*prompts, prompts[0]], [*responses, [12, 13]], strict=True):
        with torch.no_grad():
            states = lm.body(input_ids=torch.tensor([[*prompt, *response]])).last_hidden_state[0]
        theirs.append(states[len(prompt) - 1 : -1])
    torch.testing.assert_close(ours, torch.cat(theirs), rtol=1e-4, atol=2e-5)


def test_a_window_of_all_layers_is_seen_in_a_config_that_names_no_kinds():
    for kind, expected in (("gemma3", 40), ("mistral", 40), ("phi3", 40), ("qwen2", float("inf")), ("gpt2", float("inf"))):
        lm = tiny_model(kind, window=40)
        assert lm.window == expected
        assert ModelShape.of(lm.network).windows == layer_windows(lm.network.config)
    assert layer_windows(tiny_model("phi3", window=40).network.config) == (40, 40)


def test_grouped_attention_refuses_a_model_with_sinks():
    query, key = torch.zeros(1, 4, 2, 8), torch.zeros(1, 2, 2, 8)
    grouped_attention(torch.nn.Module(), query, key, key, None)
    with pytest.raises(CompatibilityError, match="eager"):
        grouped_attention(torch.nn.Module(), query, key, key, None, s_aux=torch.zeros(4))


@pytest.mark.parametrize("window", [16, 512])
@pytest.mark.parametrize("kind", ["gemma2", "gemma3", "phi3"])
def test_grouped_attention_keeps_windows_and_caps(kind, window):
    lm, prompts = windowed(kind, window)
    found = []
    for kernel in (GROUPED, "eager"):
        lm.network.set_attn_implementation(kernel)
        found.append(response_states(lm, prompts, [[5, 6], [7], [8, 9]]).states)
    torch.testing.assert_close(*found, rtol=1e-4, atol=2e-5)
