"""What is counted on paper is what PyTorch counts while the model runs, to the digit, body, attention and head apart."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    BertConfig,
    BertModel,
    DynamicCache,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from softguard.costs import Added, GuardWork, ModelShape, pass_flops, request_flops
from softguard.costs.counting import extra_per_generated_token, generated_token_flops
from softguard.errors import CompatibilityError, SourceError
from softguard.guards.mini_network import PairNetwork
from tests.fakes import KeywordGuard, tiny_model

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
WINDOW = 8


def network(kind):
    if kind == "gemma2":
        made = Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=24, sliding_window=WINDOW))
    elif kind == "mistral":
        made = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=WINDOW))
    elif kind == "untied":
        made = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False))
    elif kind == "ungrouped":
        made = LlamaForCausalLM(LlamaConfig(**{**SIZES, "num_key_value_heads": 4}))
    else:
        made = tiny_model(kind).network
    made.set_attn_implementation("eager")
    return made.eval()


def counted(model, **inputs):
    """Return (body, attention, head) as PyTorch counts them: linear layers, what is left, and the head."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(**inputs)
    by_module = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    linear = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) or type(m).__name__ == "Conv1D"]
    inside = {n: by_module.get(f"{type(model).__name__}.{n}", 0) for n in linear}
    head = inside.pop("lm_head", 0)
    body = sum(inside.values())
    return body, by_module["Global"] - body - head, head


def figures(flops):
    return flops.body, flops.attention, flops.head


KINDS = ["llama", "ungrouped", "untied", "qwen2", "gemma2", "gemma3", "gpt2", "mistral"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_costs_what_pytorch_counts(kind):
    model = network(kind)
    ids = torch.arange(WINDOW)[None]
    expected = counted(model, input_ids=ids, use_cache=False)
    assert min(expected) > 0
    assert figures(pass_flops(ModelShape.of(model), WINDOW)) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("past", "new"), [(3, 4), (20, 1)])
def test_a_pass_with_a_past_costs_what_pytorch_counts(kind, past, new):
    # A token that a window's cache has let go of is not attended to: only a cache that slides tells.
    model = network(kind)
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(input_ids=torch.arange(past)[None], past_key_values=cache, use_cache=True)
    expected = counted(model, input_ids=torch.arange(new)[None], past_key_values=cache, use_cache=True)
    assert figures(pass_flops(ModelShape.of(model), new, past)) == expected


@pytest.mark.parametrize("cached", [False, True])
def test_a_request_costs_what_pytorch_counts(cached):
    lm, added, tokens = tiny_model("llama"), Added(front=5, after=2), 11
    lm.network.set_attn_implementation("grouped")
    lm.network.eval()
    embeds = torch.zeros(1, tokens + added.total, lm.width)
    cache = DynamicCache(config=lm.network.config)
    with torch.inference_mode():
        if cached:
            lm.body(inputs_embeds=embeds[:, : added.front], past_key_values=cache, use_cache=True)
            embeds = embeds[:, added.front :]
        with FlopCounterMode(display=False) as counter:
            states = lm.body(inputs_embeds=embeds, past_key_values=cache, use_cache=True).last_hidden_state
            lm.head(states[0, -tokens:])
    expected = request_flops(ModelShape.of(lm.network), tokens, added, cached=cached)
    assert counter.get_total_flops() == expected.total


@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_is_as_large_as_it_is(kind):
    model, positions = network(kind), 20
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(input_ids=torch.arange(positions)[None], past_key_values=cache, use_cache=True)
    held = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    shape = ModelShape.of(model)
    # Between two steps a sliding cache lacks the one position that the next token fills.
    waiting = 2 * shape.key_width * sum(w is not None and w < positions for w in shape.windows)
    assert shape.cache_numbers(positions) == held + waiting


def test_a_configuration_alone_gives_the_shape_of_the_model():
    for kind in ("llama", "gemma2", "gpt2"):
        model = network(kind)
        fields = {k: v for k, v in model.config.to_dict().items() if k not in ("architectures", "transformers_version")}
        assert ModelShape.from_config(fields) == ModelShape.of(model)


def test_what_these_numbers_do_not_describe_is_refused():
    experts = MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=2))
    with pytest.raises(CompatibilityError, match="a weight of shape"):
        ModelShape.of(experts)
    odd = network("llama")
    odd.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(CompatibilityError, match="linear_attention"):
        ModelShape.of(odd)
    with pytest.raises(SourceError):
        ModelShape.from_config({"model_type": "no such model"})
    with pytest.raises(SourceError):
        ModelShape.from_config({"hidden_size": 8})


def test_a_files_error_names_the_file(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(SourceError, match=r"config\.json"):
        ModelShape.from_file(path)
    path.write_text("[]")
    with pytest.raises(SourceError, match=r"config\.json"):
        ModelShape.from_file(path)
    text = {"model_type": "llama", "num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 2}
    path.write_text(json.dumps({"text_config": text}))
    assert len(ModelShape.from_file(path).windows) == 3


class Encoder(KeywordGuard):
    """A guard that is an encoder, as `mini`, here in two passes, of which the second reads the prompt alone."""

    def __init__(self):
        super().__init__()
        config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
        config._attn_implementation = "eager"
        self.network = PairNetwork(BertModel(config, add_pooling_layer=False), 32, hidden=8).eval()

    def passes(self, prompt_tokens, answer_tokens):
        return prompt_tokens + answer_tokens, prompt_tokens


def test_a_guards_cost_is_that_of_its_passes():
    guard = Encoder()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        for length in (14, 9):
            ids = torch.ones(1, length, dtype=torch.long)
            guard.network(ids, ids, torch.ones_like(ids))
    work = GuardWork.of(guard)
    assert work.flops(9, 5).total == counter.get_total_flops()
    assert work.shape.parameters == sum(p.numel() for p in guard.network.parameters())
    assert not work.keeps_cache


def test_a_guard_that_says_nothing_is_unknown_and_one_without_weights_is_free():
    guard = KeywordGuard()
    assert GuardWork.of(guard) is None
    guard.num_parameters = 0
    assert GuardWork.of(guard).flops(100, 100).total == 0


def test_what_a_generated_token_costs_more_is_its_attention_and_the_pass_of_what_reads_the_prompt():
    shape = ModelShape.of(network("llama"))
    attention = 4 * 32 * 2  # of one token to one position, two layers
    assert generated_token_flops(shape, 100).attention == 100 * attention
    assert extra_per_generated_token(shape, 100, Added(front=6), 30.0, 8) == 6 * attention
    after = extra_per_generated_token(shape, 100, Added(front=6, after=2), 30.0, 8)
    own_pass = 2 * (2 * shape.body_weights + (6 + 30 + 2) * attention)
    assert after == pytest.approx(8 * attention + own_pass / 8)
