"""`ModelShape`: the few numbers of a transformer that decide its cost, read off its layers.

One idea: weights are counted where they are, in the linear layers of the network, which for a configuration alone is built
without memory (PyTorch's meta device); so no formula has to know an architecture.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from softguard.errors import CompatibilityError, SourceError
from softguard.models.attention import layer_windows
from softguard.models.quantisation import weight_count

_KINDS = {"full_attention", "sliding_attention"}
_ADVICE = "softguard counts dense transformers whose layers all attend alike: count this one by hand"


@dataclass(frozen=True)
class ModelShape:
    """What a forward pass multiplies with.

    Attributes:
        parameters: all numbers of the model, tied ones once.
        body_weights: of the linear layers that every position goes through.
        head_weights: of what comes after the body, V x D for a language model, whether tied to the embedding or not.
        query_width: width of all query heads of a layer together.
        key_width: width of all key heads of a layer together; values are as wide.
        windows: for each layer how many positions a token attends to at most, None without a limit.
        width: D, of an embedding.
        heads: query heads of a layer.
    """

    parameters: int
    body_weights: int
    head_weights: int
    query_width: int
    key_width: int
    windows: tuple[int | None, ...]
    width: int
    heads: int

    @classmethod
    def of(cls, network: nn.Module) -> "ModelShape":
        """Return the shape of a network whose body is `base_model` (transformers) or `encoder` (our guards).

        Raises:
            CompatibilityError: a network whose cost these numbers do not decide, as a mixture of experts.
        """
        body: Any = getattr(network, "base_model", None)
        body = network.encoder if body is None else body
        config = body.config
        odd = next((f"a weight of shape {tuple(p.shape)}" for p in body.parameters() if p.dim() > 2), None)
        kinds = set(getattr(config, "layer_types", None) or ()) - _KINDS
        odd = odd or next((f"a layer of kind {kind}" for kind in sorted(kinds)), None)
        odd = odd or ("compressed keys" if getattr(config, "kv_lora_rank", None) else None)
        if odd:
            raise CompatibilityError("linear layers and plain attention", f"{odd} in {type(network).__name__}", _ADVICE)
        heads = config.num_attention_heads
        head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
        key_heads = getattr(config, "num_key_value_heads", None) or heads
        in_body = _linear_weights(body)
        return cls(
            parameters=sum(weight_count(p) for p in network.parameters()),
            body_weights=in_body,
            head_weights=_linear_weights(network) - in_body,
            query_width=heads * head_width,
            key_width=key_heads * head_width,
            windows=layer_windows(config),
            width=config.hidden_size,
            heads=heads,
        )

    @classmethod
    def from_config(cls, fields: Mapping[str, Any]) -> "ModelShape":
        """Return the shape of a causal LM of which only the configuration is known; nothing is loaded.

        Args:
            fields: as in a Hugging Face `config.json`, `model_type` among them.

        Raises:
            SourceError: they describe no causal LM that transformers knows.
            CompatibilityError: see `of`.
        """
        given = dict(fields)
        try:
            config: Any = AutoConfig.for_model(given.pop("model_type"), **given)
            with torch.device("meta"):
                network: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        except (KeyError, ValueError, TypeError) as error:
            raise SourceError("the configuration of a causal LM", str(error)[:200], "check model_type and sizes") from error
        return cls.of(network)

    @classmethod
    def from_file(cls, path: Path) -> "ModelShape":
        """Return the shape that a `config.json` describes.

        Raises:
            SourceError: no such file, or not one of a causal LM.
        """
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            return cls.from_config(fields.get("text_config", fields))
        except (OSError, ValueError, AttributeError) as error:
            if isinstance(error, SourceError):
                raise
            raise SourceError(f"a model's config.json in {path}", str(error)[:200], "name a Hugging Face config.json") from error

    def attended(self, keys: int) -> int:
        """Return over how many positions the layers attend in all, for one token with `keys` positions in sight."""
        return sum(keys if window is None else min(keys, window) for window in self.windows)

    def cache_numbers(self, positions: int) -> int:
        """Return how many numbers the keys and values of so many positions are; a window keeps no more than it sees."""
        return 2 * self.key_width * self.attended(positions)


def _linear_weights(network: nn.Module) -> int:
    """Return the weights of the linear layers, tied ones as often as they are multiplied with; biases are not products."""
    linear = [m.in_features * m.out_features for m in network.modules() if isinstance(m, nn.Linear)]
    convolved = [int(m.weight.numel()) for m in network.modules() if isinstance(m, Conv1D)]  # GPT-2's name for linear
    return sum(linear) + sum(convolved)
