"""Low-rank weight updates through PEFT (Hu et al. 2021; the paper's DiLoRA): W x + scaling B A x in the projections named.

PEFT makes the layers; we put them in for the length of a pass and the frozen ones back after it. They are never merged: what
`W + BA` rounds to and back is not W. The paper takes the rank that matches 100 virtual tokens in parameters: rank 1 on q and v of
SmolLM2-135M is 30 x (576 + 576 + 576 + 192) = 57,600 = 100 x 576.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal
from weakref import WeakKeyDictionary

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from softguard.adapters._inside import Inside
from softguard.adapters._storage import check_base, read_adapter, write_adapter
from softguard.adapters.protocol import ADAPTERS
from softguard.errors import CompatibilityError, RunError
from softguard.models import LanguageModel

_NAME = "default"
_PEFT_PREFIX = "base_model.model."
_Layers = dict[str, LoraLayer]


class LoraConfig(BaseModel):
    """Rank, places and scale."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["lora"] = "lora"
    rank: int = Field(1, gt=0, le=1024, description="r; 1 on q and v matches 100 virtual tokens in SmolLM2-135M: 57,600 numbers")
    target_modules: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="names of the projections, as q_proj; empty takes q and v, or the one that holds both"
    )
    scaling: float = Field(1.0, gt=0, description="on BA; PEFT's lora_alpha is scaling x rank")


@ADAPTERS.register("lora")
class Lora(Inside):
    """A and B of each place, by PEFT's names."""

    def __init__(
        self, config: LoraConfig, targets: tuple[str, ...], weights: Mapping[str, Tensor], base_fingerprint: str
    ) -> None:
        self.config = config
        self.targets = targets
        self.base_fingerprint = base_fingerprint
        self._weights = {name: nn.Parameter(weights[name].detach().clone().float()) for name in sorted(weights)}
        self._made: WeakKeyDictionary[nn.Module, _Layers] = WeakKeyDictionary()

    @classmethod
    def create(cls, config: LoraConfig, lm: LanguageModel, seed: int) -> "Lora":
        """Return a fresh LoRA for `lm`: A drawn as PEFT does, B zero, so that the student begins as the base model.

        Raises:
            CompatibilityError: a target that the model has not, or one that is its head or its embedding.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = _inject(lm, config, config.target_modules or attention_projections(lm.blocks[0], type(lm.network).__name__))
        targets = tuple(sorted({name.rsplit(".", 1)[-1] for name in layers}))
        adapter = cls(config, targets, _weights(layers), lm.fingerprint)
        adapter._made[lm.network] = layers
        return adapter

    def parameters(self) -> list[nn.Parameter]:
        """Return A and B of every place, in the order of names."""
        return list(self._weights.values())

    @contextmanager
    def attach(self, lm: LanguageModel) -> Iterator[LanguageModel]:
        """Put PEFT's layers, with these parameters, in the places of the frozen ones; they go back at the end.

        Raises:
            CompatibilityError: another base model.
        """
        check_base(lm, self.base_fingerprint)
        layers = self._layers(lm)
        try:
            for name, layer in layers.items():
                layer.lora_A[_NAME].weight = self._weights[f"{name}.lora_A.weight"]
                layer.lora_B[_NAME].weight = self._weights[f"{name}.lora_B.weight"]
                lm.network.set_submodule(name, layer)
            yield lm
        finally:
            for name, layer in layers.items():
                lm.network.set_submodule(name, layer.get_base_layer())

    def pairs(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return A (rank x in) and B (out x rank) of each module, by its name in the network."""
        names = [name.removesuffix(".lora_A.weight") for name in self._weights if name.endswith(".lora_A.weight")]
        return {n: (self._weights[f"{n}.lora_A.weight"], self._weights[f"{n}.lora_B.weight"]) for n in names}

    @property
    def num_parameters(self) -> int:
        """Numbers in all A and B."""
        return sum(p.numel() for p in self._weights.values())

    @property
    def num_prefix_positions(self) -> int:
        """None."""
        return 0

    @property
    def weights_per_token(self) -> int:
        """All A and B: they are never merged."""
        return self.num_parameters

    def save(self, folder: Path, lm: LanguageModel) -> None:
        """Write A and B as PEFT does, with its config: `PeftModel.from_pretrained` loads them."""
        tensors = {_PEFT_PREFIX + name: weight for name, weight in self._weights.items()}
        peft = _peft_config(self.config, self.targets)
        peft.base_model_name_or_path, peft.inference_mode = lm.reference, True
        plain = {k: sorted(v) if isinstance(v, set) else v for k, v in peft.to_dict().items()}
        write_adapter(folder, self.config, tensors, self.base_fingerprint, plain)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "Lora":
        """Return the LoRA saved in `folder`.

        Raises:
            RunError: a file is missing or not what it has to be.
        """
        stored = read_adapter(folder, LoraConfig, device)
        weights = {name.removeprefix(_PEFT_PREFIX): tensor for name, tensor in stored.tensors.items()}
        if not weights or not all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in weights):
            raise RunError(f"A and B of a LoRA in {folder}", ", ".join(weights)[:80] or "none", "train it again")
        targets = tuple(sorted({name.split(".")[-3] for name in weights}))
        return cls(stored.config, targets, weights, stored.base_fingerprint)

    def _layers(self, lm: LanguageModel) -> _Layers:
        """Return PEFT's layers for a network, made once."""
        if lm.network not in self._made:
            layers = _inject(lm, self.config, self.targets)
            if {f"{name}.lora_{x}.weight" for name in layers for x in "AB"} != set(self._weights):
                raise CompatibilityError("a LoRA with the places of this model", "other places", "name the model of this run")
            self._made[lm.network] = layers
        return self._made[lm.network]


def attention_projections(block: nn.Module, whose: str) -> tuple[str, ...]:
    """Return the names of a model's query and value projections (Hu et al., section 4.2), or of the one that holds both.

    By what its blocks have, not by PEFT's table: that one lacks Phi-3 and every architecture to come.

    Raises:
        CompatibilityError: `block`, of the network `whose`, has none that we know.
    """
    names = {name.rsplit(".", 1)[-1] for name, _ in block.named_modules()}
    known = (("q_proj", "v_proj"), ("qkv_proj",), ("query_key_value",), ("c_attn",))
    found = next((targets for targets in known if names.issuperset(targets)), None)
    if found is None:
        raise CompatibilityError("projections of names that we know", whose, "set adapter.target_modules")
    return found


def _peft_config(config: LoraConfig, targets: tuple[str, ...]) -> PeftLoraConfig:
    return PeftLoraConfig(
        r=config.rank, lora_alpha=config.scaling * config.rank, target_modules=list(targets), task_type="CAUSAL_LM"
    )


def _inject(lm: LanguageModel, config: LoraConfig, targets: tuple[str, ...]) -> _Layers:
    """Return PEFT's layers by the names of the modules that they wrap, and leave the network as it was."""
    network: Any = lm.network
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fan_in_fan_out of GPT-2's Conv1D, which PEFT sets right by itself
            inject_adapter_in_model(_peft_config(config, targets), network, adapter_name=_NAME)
    except ValueError as error:
        raise CompatibilityError("target_modules that the model has", str(error)[:160], "set adapter.target_modules") from error
    finally:
        layers = {name: module for name, module in network.named_modules() if isinstance(module, LoraLayer)}
        for name, layer in layers.items():
            network.set_submodule(name, layer.get_base_layer())
        if hasattr(network, "peft_config"):
            del network.peft_config
    ends = (network.get_input_embeddings(), network.get_output_embeddings())
    if any(layer.get_base_layer() in ends for layer in layers.values()):
        raise CompatibilityError("target_modules of the blocks", "the embedding or the head", "leave these out")
    for layer in layers.values():
        layer.eval()
    return layers


def _weights(layers: _Layers) -> dict[str, Tensor]:
    parts = {f"{name}.{part}.weight": getattr(layer, part)[_NAME].weight for name, layer in layers.items() for part in _PARTS}
    return {name: weight.detach() for name, weight in parts.items()}


_PARTS = ("lora_A", "lora_B")
