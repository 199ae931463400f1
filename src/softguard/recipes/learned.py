"""How many numbers an adapter would learn, from the model's configuration alone: nothing is fetched, no weights are loaded.

One idea: the network is built without memory (PyTorch's meta device), and what an adapter needs of it is its modules' sizes. A
test holds each count against the adapter itself. `MATCHED` is the paper's size, by which adapters are compared.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from softguard.adapters.kv_prefix import KVPrefixConfig
from softguard.adapters.lora import LoraConfig, attention_projections
from softguard.adapters.refusal_gate import RefusalGateConfig
from softguard.adapters.soft_prompt import SoftPromptConfig
from softguard.costs import ModelShape
from softguard.models import read_config
from softguard.sources import resolve

MATCHED = 100
"""Virtual tokens of the paper's soft prompt: other adapters are as large where they hold this many times the model's width."""


def learned_numbers(adapter: Any, reference: str) -> tuple[int | None, int]:
    """Return how many numbers the adapter of a config would learn, None for a kind that is not known here, and those of
    `MATCHED` virtual tokens.

    Raises:
        SourceError: the model is not in the cache, or has no configuration.
        CompatibilityError: a model whose shape does not say it.
    """
    fields = dict(read_config(resolve(reference, offline=True)))
    shape = ModelShape.from_config(fields)
    matched = MATCHED * shape.width
    if isinstance(adapter, SoftPromptConfig):
        return adapter.num_virtual_tokens * shape.width, matched
    if isinstance(adapter, KVPrefixConfig):
        return adapter.num_positions * 2 * len(shape.windows) * shape.key_width, matched
    if isinstance(adapter, RefusalGateConfig):
        beside = adapter.soft_prompt.num_virtual_tokens if adapter.soft_prompt else 0
        return (2 + beside) * shape.width, matched
    if isinstance(adapter, LoraConfig):
        return adapter.rank * _ends(fields, adapter), matched
    return (shape.width if adapter.kind in ("steering_vector", "difference_of_means") else None), matched


def _ends(fields: dict[str, Any], adapter: LoraConfig) -> int:
    """Return the sum of inputs and outputs of the layers that a LoRA sits on."""
    config: Any = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.device("meta"):
        network: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    blocks = next(m for m in network.base_model.children() if isinstance(m, nn.ModuleList))
    targets = adapter.target_modules or attention_projections(blocks[0], type(network).__name__)
    layers = [m for name, m in blocks.named_modules() if name.rsplit(".", 1)[-1] in targets]
    return sum(sum(m.weight.shape) for m in layers)
