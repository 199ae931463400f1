"""What an adapter would learn, counted from a configuration alone, is what the adapter holds."""

import pytest

from softguard.adapters import ADAPTERS
from softguard.adapters.difference_of_means import DifferenceOfMeansConfig
from softguard.adapters.kv_prefix import KVPrefixConfig
from softguard.adapters.lora import LoraConfig
from softguard.adapters.refusal_gate import RefusalGateConfig
from softguard.adapters.soft_prompt import SoftPromptConfig
from softguard.adapters.steering_vector import SteeringVectorConfig
from softguard.recipes.config import load_config, plan
from softguard.recipes.learned import learned_numbers
from tests.fakes import tiny_model

CONFIGS = {
    "soft_prompt": SoftPromptConfig(num_virtual_tokens=7),
    "lora": LoraConfig(rank=3),
    "named": LoraConfig(target_modules=("o_proj",)),
    "kv_prefix": KVPrefixConfig(num_positions=3),
    "steering_vector": SteeringVectorConfig(),
    "difference_of_means": DifferenceOfMeansConfig(),
    "gate": RefusalGateConfig(),
    "gate_and_prompt": RefusalGateConfig(soft_prompt=SoftPromptConfig(num_virtual_tokens=4)),
}


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3", "gpt2", "phi3"])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_count_is_the_adapters(kind, name, tmp_path):
    if name == "named" and kind == "gpt2":
        return  # it has no such projection
    lm, config = tiny_model(kind), CONFIGS[name]
    lm.network.save_pretrained(tmp_path)
    made = ADAPTERS.get(config.kind).create(config, lm, 0)
    assert learned_numbers(config, str(tmp_path)) == (made.num_parameters, 100 * lm.width)


def test_every_kind_is_counted():
    assert {c.kind for c in CONFIGS.values()} == set(ADAPTERS)


def test_the_plan_says_it(tmp_path):
    settings = [f"model.name={tmp_path}", "adapter.kind=lora"]
    assert "not known yet" in plan(load_config(None, settings))[0]
    tiny_model().network.save_pretrained(tmp_path)
    expected = "learns 224 numbers: an adapter of kind lora (100 virtual tokens of this model are 3,200)"
    assert plan(load_config(None, settings))[0] == expected
