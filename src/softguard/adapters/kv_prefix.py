"""Learned keys and values of `num_positions` positions in every layer, before the sequence (prefix tuning, Li and Liang 2021).

A capacity control: a position holds 2 x layers x key width numbers (11,520 in SmolLM2, a virtual token 576), and every soft
prompt in front is one of these, so that what it cannot do no soft prompt in front can. Keys are held as the cache holds them,
after rotation, for positions 0 to P - 1; prompts begin at position P. Nothing is run for them: a request pays attention to P
positions and no prefill.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from softguard.adapters._inside import Inside
from softguard.adapters._storage import check_base, read_adapter, write_adapter
from softguard.adapters.protocol import ADAPTERS
from softguard.adapters.soft_prompt import DEFAULT_TEXT, SoftPrompt, repeated_ids
from softguard.errors import CompatibilityError, ConfigError, RunError
from softguard.models import LanguageModel, key_values

_TENSOR = "prompt_embeddings"


class KVPrefixConfig(BaseModel):
    """Size and start."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["kv_prefix"] = "kv_prefix"
    num_positions: int = Field(
        5, gt=0, le=4096, description="learned positions; 5 hold as many numbers as 100 virtual tokens in SmolLM2-135M: 57,600"
    )
    initialisation: Literal["text", "soft_prompt"] = Field(
        "text", description="keys and values of a text, or of a soft prompt that stands wholly in front"
    )
    initial_text: str = Field(DEFAULT_TEXT, description="repeated or cut to num_positions where initialisation is text")
    initial_adapter: str = Field("", description="RUN/adapter of a soft prompt, where initialisation is soft_prompt")

    @model_validator(mode="after")
    def _has_a_start(self) -> "KVPrefixConfig":
        if self.initialisation == "text" and not self.initial_text.strip():
            raise ValueError("initial_text is empty where initialisation is text")
        if self.initialisation == "soft_prompt" and not self.initial_adapter:
            raise ValueError("initial_adapter is empty where initialisation is soft_prompt")
        return self


@ADAPTERS.register("kv_prefix")
class KVPrefix(Inside):
    """Keys and values of each layer."""

    def __init__(self, config: KVPrefixConfig, layers: tuple[tuple[Tensor, Tensor], ...], base_fingerprint: str) -> None:
        self.config = config
        self.base_fingerprint = base_fingerprint
        self._parameters = [nn.Parameter(tensor.detach().clone().float()) for pair in layers for tensor in pair]

    @classmethod
    def create(cls, config: KVPrefixConfig, lm: LanguageModel, seed: int) -> "KVPrefix":
        """Return a fresh prefix for `lm`: the keys and values of what it starts from, so that it begins as that does.

        Raises:
            CompatibilityError: more positions than a sliding window of the model holds, or a soft prompt of another model.
            ConfigError: a soft prompt that has another size or does not stand wholly in front.
        """
        count = config.num_positions
        if count >= lm.window:
            raise CompatibilityError(f"fewer positions than the window of {lm.window:g}", str(count), "lower num_positions")
        if config.initialisation == "text":
            layers = key_values(lm, repeated_ids(lm, config.initial_text, count))
        else:
            prompt = SoftPrompt.load(Path(config.initial_adapter), lm.device)
            if prompt.config.layout != (("front", count),):
                found = ", ".join(f"{n} in {slot}" for slot, n in prompt.config.layout)
                raise ConfigError(f"a soft prompt of {count} virtual tokens in front", found, "set adapter.num_positions")
            with prompt.attach(lm):
                layers = key_values(lm, [-(k + 1) for k in range(count)], prompt.virtual_tokens())
        return cls(config, layers, lm.fingerprint)

    def parameters(self) -> list[nn.Parameter]:
        """Return keys and values, layer by layer."""
        return self._parameters

    @contextmanager
    def attach(self, lm: LanguageModel) -> Iterator[LanguageModel]:
        """Give the model that holds the prefix; the network itself is left alone.

        Raises:
            CompatibilityError: another base model.
        """
        check_base(lm, self.base_fingerprint)
        yield replace(lm, prefix=tuple(zip(self._parameters[::2], self._parameters[1::2], strict=True)))

    @property
    def num_parameters(self) -> int:
        """2 x layers x P x key width."""
        return sum(p.numel() for p in self._parameters)

    @property
    def num_prefix_positions(self) -> int:
        """P."""
        return self.config.num_positions

    @property
    def weights_per_token(self) -> int:
        """None."""
        return 0

    def save(self, folder: Path, lm: LanguageModel) -> None:
        """Write keys and values as PEFT's prefix tuning does, P x (layers, key or value, head, width).

        Layers of unlike shape are written one by one, and PEFT gets no config.
        """
        one = self._parameters[0]
        peft = None
        names = [f"layer.{i // 2}.{'values' if i % 2 else 'keys'}" for i in range(len(self._parameters))]
        tensors: dict[str, Tensor] = dict(zip(names, self._parameters, strict=True))
        if all(p.shape == one.shape for p in self._parameters):
            stacked = torch.stack([p.detach()[0] for p in self._parameters])  # (layers x 2) x G x P x d
            tensors = {_TENSOR: stacked.permute(2, 0, 1, 3).reshape(one.shape[2], -1)}
            peft = {
                "peft_type": "PREFIX_TUNING",
                "task_type": "CAUSAL_LM",
                "base_model_name_or_path": lm.reference,
                "inference_mode": True,
                "num_virtual_tokens": one.shape[2],
                "token_dim": one.shape[1] * one.shape[3],
                "num_transformer_submodules": 1,
                "num_layers": len(self._parameters) // 2,
                "num_attention_heads": one.shape[1],
                "prefix_projection": False,
            }
        write_adapter(folder, self.config, tensors, self.base_fingerprint, peft)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "KVPrefix":
        """Return the prefix saved in `folder`.

        Raises:
            RunError: a file is missing or not what it has to be.
        """
        stored = read_adapter(folder, KVPrefixConfig, device)
        tensors = stored.tensors
        try:
            if set(tensors) == {_TENSOR}:
                shape = (stored.peft_config["num_layers"], 2, stored.peft_config["num_attention_heads"], -1)
                split = tensors[_TENSOR].view(stored.config.num_positions, *shape).permute(1, 2, 3, 0, 4)
                layers = tuple((keys[None], values[None]) for keys, values in split)
            else:
                count = max(1, len(tensors) // 2)
                layers = tuple((tensors[f"layer.{i}.keys"], tensors[f"layer.{i}.values"]) for i in range(count))
        except (KeyError, TypeError, RuntimeError) as error:
            wanted = f"keys and values of every layer in {folder}"
            raise RunError(wanted, str(error)[:160], "train it again or copy it whole") from error
        return cls(stored.config, layers, stored.base_fingerprint)
