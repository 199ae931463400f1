"""4-bit base models: the linear layers of a Hugging Face model as NF4, made by bitsandbytes while the model is loaded.

The layers stay packed: each pass unpacks one layer's weights, multiplies in the model's own type, and drops them. So memory is
that of four and a half bits a weight, and a gradient with respect to a layer's input is that of the unpacked weights. Embedding,
head, norms and biases keep the model's type. Decision 0025 says why this library.

References:
    NF4: Dettmers et al. 2023, QLoRA, arXiv 2305.14314, section 3.
"""

import math
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from softguard.errors import CompatibilityError, ConfigError

Quantisation = Literal["none", "nf4"]
NONE, NF4 = get_args(Quantisation)
NF4_BYTES = 0.5 + 4 / 64
"""Of a weight: four bits, and one float32 for each block of 64."""
_TYPES = (torch.float32, torch.bfloat16)


def check_quantisation(quantisation: Quantisation, dtype: torch.dtype) -> None:
    """Raise where a model could not be quantised here, before it is fetched.

    Raises:
        ConfigError: bitsandbytes is not installed.
        CompatibilityError: a type that its layers do not multiply in.
    """
    if quantisation == NONE:
        return
    if find_spec("bitsandbytes") is None:
        found = "it is not installed"
        raise ConfigError(f"bitsandbytes, for model.quantisation {quantisation!r}", found, "pip install 'softguard[quantise]'")
    if dtype not in _TYPES:
        raise CompatibilityError("float32 or bfloat16 beside 4-bit weights", str(dtype), "set model.dtype to one of these")


def loading_options(quantisation: Quantisation, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Return what `from_pretrained` has to be told; nothing for a model that is not quantised."""
    if quantisation == NONE:
        return {}
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=quantisation, bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": config, "device_map": {"": device}}


def settle(network: Any) -> None:
    """Make a quantised network fit for training: its weights are the same bits whatever pass comes first.

    On processors with AVX512-BF16 bitsandbytes packs the weights anew at the first pass without a gradient, into a layout that
    has no backward pass: after sampling, an adapter would get no gradient at all. With AVX512 it unpacks a row that ends within a
    block by the scales of other blocks (0.50.2), which no figure would tell.

    Raises:
        CompatibilityError: nothing of it was quantised, large parts of it are no linear layers, as experts, or on a CPU rows end
            within a block.
    """
    layers = [m for m in network.modules() if getattr(getattr(m, "weight", None), "quant_state", None) is not None]
    odd = next((f"a weight of shape {tuple(p.shape)}" for p in network.parameters() if p.dim() > 2), None)
    if odd or not layers:
        found = f"{odd or 'none'} in {type(network).__name__}"
        raise CompatibilityError("linear layers, to be quantised", found, "leave model.quantisation at none, or take a GGUF file")
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
        state = layer.weight.quant_state
        if layer.weight.device.type == "cpu" and state.shape[-1] % state.blocksize:
            found = f"{state.shape[-1]} in a layer of {type(network).__name__}"
            todo = "leave model.quantisation at none, or load it on a GPU"
            raise CompatibilityError(f"on a CPU, rows of a multiple of {state.blocksize} weights", found, todo)


def quantisation_of(network: Any) -> Quantisation:
    """Return how a network's linear layers are held."""
    found: Quantisation = "nf4" if getattr(network, "is_loaded_in_4bit", False) else "none"
    return found


def weight_count(parameter: nn.Parameter) -> int:
    """Return how many weights a parameter stands for: packed ones are two to the byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)


def unpacked(layer: nn.Module) -> Tensor:
    """Return the weights that a linear layer multiplies with, out x in, in the type that it computes in."""
    weight: Any = layer.weight
    state = getattr(weight, "quant_state", None)
    if state is None:
        found: Tensor = weight.T if type(layer).__name__ == "Conv1D" else weight  # GPT-2's holds it the other way round
        return found
    from bitsandbytes.functional import dequantize_4bit

    found = dequantize_4bit(weight.data, state)
    return found


def held_bytes(network: Any) -> int:
    """Return the bytes of a network's parameters as they are held, the scales of packed ones included."""
    total = 0.0
    for parameter in network.parameters():
        packed = getattr(parameter, "quant_state", None) is not None
        total += weight_count(parameter) * (NF4_BYTES if packed else parameter.element_size())
    return round(total)
