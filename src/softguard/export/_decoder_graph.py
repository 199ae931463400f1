"""A causal language model as one ONNX graph, in the layout that Optimum and ONNX Runtime GenAI expect.

The one idea: the graph's inputs are all there is. Keys and values so far come in as tensors and go out as tensors, and the mask
is made here from the plain one, so that transformers' cache and mask code, which look at shapes, leave no trace in the graph.
Needs the extra `onnx` only when a graph is written.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from softguard.errors import CompatibilityError, ConfigError
from softguard.models.attention import GROUPED, attention_for, layer_windows

FILE = "model.onnx"
INPUTS = ("input_ids", "attention_mask", "position_ids")
PAST_KEY, PAST_VALUE = "past_key_values.%d.key", "past_key_values.%d.value"
PRESENT_KEY, PRESENT_VALUE = "present.%d.key", "present.%d.value"
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_SEEN_KINDS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class KeyValueShape:
    """What each layer keeps of a position: `heads` keys and values of `width` numbers."""

    layers: int
    heads: int
    width: int


def check_packages() -> None:
    """Raise where the packages of the extra `onnx` are absent.

    Raises:
        ConfigError: one is.
    """
    absent = [name for name in _PACKAGES if find_spec(name) is None]
    if absent:
        raise ConfigError(" and ".join(_PACKAGES), f"no {' and no '.join(absent)}", "pip install 'softguard[onnx]'")


def key_value_shape(network: Any) -> KeyValueShape:
    """Return what a network keeps of each position.

    Raises:
        CompatibilityError: layers that keep something else, or not alike: chunks, states of a recurrence, widths that differ.
    """
    todo = "export to gguf or hf-baked"
    kinds = set(getattr(network.config, "layer_types", None) or ()) - _SEEN_KINDS
    if kinds:
        raise CompatibilityError("layers that see all positions or a sliding window", ", ".join(sorted(kinds)), todo)
    cache: Any = DynamicCache()
    with torch.inference_mode():
        network(input_ids=torch.tensor([[0, 0]], device=network.device), past_key_values=cache, use_cache=True)
    shapes = {(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3]) for layer in cache.layers}
    count = network.config.num_hidden_layers
    if len(cache.layers) != count or len(shapes) != 1 or len({*next(iter(shapes))[1:]}) != 1:
        found = f"{len(cache.layers)} of {count} layers with the shapes {sorted(shapes)}"
        raise CompatibilityError("the same keys and values in each layer", found, todo)
    heads, width, _ = next(iter(shapes))
    return KeyValueShape(count, heads, width)


class DecoderGraph(nn.Module):
    """A network with keys and values as tensors: the module whose trace is the graph."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self._network = network
        kinds = getattr(network.config, "layer_types", None) or ("",)
        self._windows = dict(zip(kinds, layer_windows(network.config), strict=False))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """Return logits, B x T x V, then keys and values of each layer, B x heads x S x width.

        Args:
            input_ids: B x T.
            attention_mask: B x S, 1 where a position counts; S positions are those of `past` and the T new ones.
            position_ids: B x T.
            past: keys and values of layer 0, of layer 1, and so on, each B x heads x (S - T) x width.
        """
        cache = DynamicCache(ddp_cache_data=tuple(zip(past[::2], past[1::2], strict=True)))
        length, total = input_ids.shape[1], attention_mask.shape[1]
        masks = {kind: _additive(attention_mask, length, total, window) for kind, window in self._windows.items()}
        out = self._network(
            input_ids=input_ids,
            attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        return (out.logits, *(kept for layer in cache.layers for kept in (layer.keys, layer.values)))


def write_graph(network: Any, shape: KeyValueShape, folder: Path) -> None:
    """Write a float32 network as `model.onnx` with its weights beside it, all lengths free. The network's attention is set.

    Raises:
        CompatibilityError: an architecture that PyTorch's exporter cannot trace.
    """
    # Our kernel, plain products, copies no keys for each head; the fused ones would be taken apart again. Blocks may hold
    # configs of their own.
    for module in network.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = attention_for(network.config, GROUPED)
    # Sizes of 0 and 1 would be taken for constants: the example has neither, and no two sizes alike.
    rows, length, before = 2, 3, 4
    past = tuple(torch.zeros(rows, shape.heads, before, shape.width) for _ in range(2 * shape.layers))
    ids = torch.zeros(rows, length, dtype=torch.long)
    mask = torch.ones(rows, before + length, dtype=torch.long)
    positions = torch.arange(before, before + length).expand(rows, -1).contiguous()
    text, seen, kept = {0: "batch", 1: "sequence"}, {0: "batch", 1: "total"}, {0: "batch", 2: "past"}
    try:
        with _quiet():
            torch.onnx.export(
                DecoderGraph(network).eval(),
                (ids, mask, positions, *past),
                folder / FILE,
                dynamo=True,
                verbose=False,
                input_names=[*INPUTS, *_names(PAST_KEY, PAST_VALUE, shape.layers)],
                output_names=["logits", *_names(PRESENT_KEY, PRESENT_VALUE, shape.layers)],
                dynamic_shapes=(text, seen, text, tuple(kept for _ in past)),
                external_data=True,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        found = str(error).strip().splitlines()[0][:200]
        raise CompatibilityError("an architecture that PyTorch exports to ONNX", found, "export to gguf or hf-baked") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what PyTorch's exporter says of packages that it could use and of code of its own that is to change."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _additive(attention_mask: Tensor, length: int, total: int, window: int | None) -> Tensor:
    """Return B x 1 x T x S, 0 where a new position sees another and the least number where it does not."""
    keys = torch.arange(total)[None, :]
    queries = (torch.arange(length) + (total - length))[:, None]
    seen = keys <= queries
    if window is not None:
        seen = seen & (keys > queries - window)
    counted = seen[None, None] & (attention_mask[:, None, None, :] > 0)
    return torch.where(counted, 0.0, torch.finfo(torch.float32).min)


def _names(key: str, value: str, layers: int) -> Sequence[str]:
    return [name % i for i in range(layers) for name in (key, value)]
