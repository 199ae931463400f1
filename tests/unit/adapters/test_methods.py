"""What lora, kv_prefix and the steering vectors have to themselves."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from softguard.adapters import Fitted, SoftPrompt, SoftPromptConfig
from softguard.adapters.difference_of_means import DifferenceOfMeans, DifferenceOfMeansConfig
from softguard.adapters.kv_prefix import KVPrefix, KVPrefixConfig
from softguard.adapters.lora import Lora, LoraConfig
from softguard.adapters.soft_prompt import repeated_ids
from softguard.adapters.steering_vector import SteeringVector, SteeringVectorConfig
from softguard.core import Conversation
from softguard.costs import ModelShape
from softguard.errors import CompatibilityError, ConfigError, DataError
from softguard.models import ChatRenderer, LanguageModel, response_states, sample
from tests.fakes import tiny_model

KINDS = ["llama", "qwen2", "gemma2", "gemma3", "gpt2"]


def rendered(lm, text="hello"):
    return ChatRenderer(lm.tokenizer).render(Conversation.from_prompt(text))


def smollm2() -> LanguageModel:
    """Return the shapes of SmolLM2-135M, without its numbers."""
    with torch.device("meta"):
        network = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=49152,
                hidden_size=576,
                intermediate_size=1536,
                num_hidden_layers=30,
                num_attention_heads=9,
                num_key_value_heads=3,
                tie_word_embeddings=True,
            )
        )
    return LanguageModel(network, None, "shapes", "shapes")


def test_rank_1_on_q_and_v_of_smollm2_has_the_parameters_of_100_virtual_tokens():
    lm = smollm2()
    matched = Lora.create(LoraConfig(), lm, 0)
    assert matched.num_parameters == 57_600 == 100 * lm.width
    assert matched.targets == ("q_proj", "v_proj")
    assert Lora.create(LoraConfig(rank=3), lm, 0).num_parameters == 3 * 57_600
    vector = SteeringVector.create(SteeringVectorConfig(), lm, 0)
    assert (vector.num_parameters, vector.layer) == (576, 13)
    assert KVPrefixConfig().num_positions * ModelShape.of(lm.network).cache_numbers(1) == 57_600


def test_lora_takes_the_targets_it_is_given_and_no_others():
    lm = tiny_model()
    adapter = Lora.create(LoraConfig(target_modules=("down_proj",)), lm, 0)
    assert adapter.num_parameters == 2 * (64 + 32)
    for wrong in ("no_such_proj", "lm_head", "embed_tokens"):
        with pytest.raises(CompatibilityError, match="target_modules"):
            Lora.create(LoraConfig(target_modules=(wrong,)), lm, 0)
    assert not any("lora" in n for n, _ in lm.network.named_modules())
    assert not hasattr(lm.network, "peft_config")


def test_lora_adds_scaling_times_ba():
    lm = tiny_model()
    adapter = Lora.create(LoraConfig(rank=2, scaling=3.0, target_modules=("q_proj",)), lm, 0)
    name = "model.layers.0.self_attn.q_proj"
    with torch.no_grad():
        for p in adapter.parameters():
            p.normal_()
    x = torch.randn(1, 32)
    a, b = (adapter._weights[f"{name}.lora_{which}.weight"] for which in "AB")
    expected = lm.network.get_submodule(name)(x) + 3.0 * x @ a.T @ b.T
    with adapter.attach(lm):
        assert torch.allclose(lm.network.get_submodule(name)(x), expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_kv_prefix_is_its_text(kind):
    lm = tiny_model(kind)
    adapter = KVPrefix.create(KVPrefixConfig(num_positions=6), lm, 0)
    text, ids = repeated_ids(lm, adapter.config.initial_text, 6), rendered(lm).ids
    with adapter.attach(lm) as student:
        ours = response_states(student, [ids, ids[:-1]], [[5, 6], [7]]).states
        drawn = sample(student, [ids], ["1"], max_new_tokens=4, temperature=0, seed=0, refusal_token=9)[0]
    theirs = response_states(lm, [[*text, *ids], [*text, *ids[:-1]]], [[5, 6], [7]]).states
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert drawn.ids == sample(lm, [[*text, *ids]], ["1"], max_new_tokens=4, temperature=0, seed=0, refusal_token=9)[0].ids
    assert adapter.num_prefix_positions == 6


@pytest.mark.parametrize("kind", ["gemma2", "gemma3"])
def test_a_kv_prefix_leaves_the_window_as_text_does(kind):
    """Sequences longer than the window take the model's own masks."""
    lm = tiny_model(kind, window=16)
    adapter = KVPrefix.create(KVPrefixConfig(num_positions=6), lm, 0)
    text = repeated_ids(lm, adapter.config.initial_text, 6)
    prompts = [list(rendered(lm, "a request that is long enough").ids), list(rendered(lm, "another").ids)]
    assert min(map(len, prompts)) > 16
    with adapter.attach(lm) as student:
        ours = response_states(student, prompts, [[5, 6], [7]]).states
    theirs = response_states(lm, [[*text, *p] for p in prompts], [[5, 6], [7]]).states
    assert torch.allclose(ours, theirs, atol=1e-4)
    with pytest.raises(CompatibilityError, match="window"):
        KVPrefix.create(KVPrefixConfig(num_positions=16), lm, 0)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_a_kv_prefix_starts_from_a_soft_prompt(kind, tmp_path):
    lm = tiny_model(kind)
    prompt = SoftPrompt.create(SoftPromptConfig(num_virtual_tokens=4, initialisation="random"), lm, 0)
    prompt.save(tmp_path, lm)
    config = KVPrefixConfig(num_positions=4, initialisation="soft_prompt", initial_adapter=str(tmp_path))
    adapter, ids = KVPrefix.create(config, lm, 0), rendered(lm)
    with adapter.attach(lm) as student:
        ours = response_states(student, [adapter.extend(ids)], [[5, 6]]).states
    theirs = response_states(lm, [prompt.extend(ids)], [[5, 6]], prompt.virtual_tokens()).states
    assert torch.allclose(ours, theirs, atol=1e-4)
    with pytest.raises(ConfigError, match="4 in front"):
        KVPrefix.create(config.model_copy(update={"num_positions": 5}), lm, 0)
    with pytest.raises(CompatibilityError, match="base model"):
        KVPrefix.create(config, tiny_model(kind, seed=1), 0)


def test_a_kv_prefix_without_a_start_is_an_error():
    for wrong in ({"initial_text": " "}, {"initialisation": "soft_prompt"}):
        with pytest.raises(ValueError, match="empty"):
            KVPrefixConfig(**wrong)


def test_a_steering_vector_moves_the_output_of_its_block_by_itself():
    lm = tiny_model()
    adapter = SteeringVector.create(SteeringVectorConfig(layer=1, initial_scale=1.0), lm, 0)
    seen = []
    ids = torch.tensor([list(rendered(lm).ids)])
    lm.blocks[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    for attached in (False, True):
        if attached:
            with adapter.attach(lm):
                lm.body(input_ids=ids)
        else:
            lm.body(input_ids=ids)
    assert torch.equal(seen[0], seen[1])  # this hook came first: what the block itself makes is the same
    norm = lm.network.model.norm
    with adapter.attach(lm):
        steered = lm.body(input_ids=ids).last_hidden_state
    assert torch.allclose(steered, norm(seen[0] + adapter.parameters()[0]), atol=1e-5)


@pytest.mark.parametrize("layer", [2, 30])
def test_a_layer_that_the_model_has_not_is_an_error(layer):
    with pytest.raises(CompatibilityError, match="layer below 2"):
        SteeringVector.create(SteeringVectorConfig(layer=layer), tiny_model(), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_difference_of_means_is_that_at_the_strength_of_the_best_score(kind):
    lm = tiny_model(kind)
    config = DifferenceOfMeansConfig(layer=0, strengths=(1.0, -2.0, 3.0, -2.0))
    adapter = DifferenceOfMeans.create(config, lm, 0)
    assert isinstance(adapter, Fitted)
    assert not isinstance(SteeringVector.create(SteeringVectorConfig(), lm, 0), Fitted)
    prompts, alpha = [rendered(lm, t) for t in ("zz", "aaaa", "zzzzzz", "b")], [0.1, 0.9, 0.0, 1.0]
    states = []
    handle = lm.blocks[0].register_forward_hook(lambda module, inputs, output: states.append(output[0]))
    for prompt in prompts:
        lm.body(input_ids=torch.tensor([list(prompt.ids)]))
    handle.remove()
    last = torch.stack([s.reshape(-1, lm.width)[-1] for s in states])
    refused = (0.9 * last[0] + 0.1 * last[1] + last[2]) / 2.0
    answered = (0.1 * last[0] + 0.9 * last[1] + last[3]) / 2.0
    scores = iter([0.3, 0.8, 0.5, 0.1])
    adapter.fit(lm, prompts, alpha, lambda: next(scores))
    assert torch.allclose(adapter.parameters()[0], -2.0 * (refused - answered), atol=1e-4)


@pytest.mark.parametrize("alpha", [[0.0, 0.0], [1.0, 1.0]])
def test_a_difference_needs_both_kinds(alpha):
    lm = tiny_model()
    adapter = DifferenceOfMeans.create(DifferenceOfMeansConfig(layer=0), lm, 0)
    with pytest.raises(DataError, match="one kind"):
        adapter.fit(lm, [rendered(lm), rendered(lm, "b")], alpha, lambda: 0.0)


def test_a_prefix_is_no_part_of_what_makes_two_models_equal():
    lm = tiny_model()
    assert replace(lm, prefix=((torch.zeros(1), torch.zeros(1)),)).fingerprint == lm.fingerprint
