"""Eager attention without the copies of keys and values that grouped-query models make for each head.

Query heads that share a key head are stacked along the length, so that one product serves them all: SmolLM2 (9 heads on 3) would
copy its whole cache three times for each token.
Registered with transformers as "grouped"; the same numbers as "eager" up to rounding. Here too is how far each layer looks back.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from softguard.errors import CompatibilityError
from softguard.models.attending import attend
from softguard.models.fused import fuse
from softguard.models.packing import attend_packed, current

GROUPED, FUSED = "grouped", "fused"


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return the attended values, B x T x H x d, as transformers' attention functions do.

    Args:
        module: the attention layer, not used.
        query: B x H x T x d.
        key: B x G x S x d, G a divisor of H.
        value: B x G x S x d.
        attention_mask: additive, broadcast over B x H x T x S, or None.
        scaling: of the products, 1 / sqrt(d) by default.
        dropout: must be 0, since frozen models run in evaluation mode.
        softcap: Gemma 2's bound on the scores.
        s_aux: the learned sinks of GPT-OSS, which this kernel does not know.

    Raises:
        CompatibilityError: a model with attention sinks.
    """
    if s_aux is not None:
        raise CompatibilityError("attention without learned sinks", type(module).__name__, "set model.attention to eager")
    assert not dropout
    rows, heads, length, width = query.shape
    scale = width**-0.5 if scaling is None else scaling
    packing = current()
    if packing is not None:
        return attend_packed(query, key, value, packing, scale), None
    if softcap is None:
        return attend(query, key, value, attention_mask, scale).transpose(1, 2), None
    groups = key.shape[1]
    stacked = query.reshape(rows, groups, -1, width) * scale
    scores = torch.matmul(stacked, key.transpose(2, 3)).view(rows, heads, length, -1)
    scores = softcap * torch.tanh(scores / softcap)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
    attended = torch.matmul(weights.view(rows, groups, -1, weights.shape[-1]), value)
    return attended.view(rows, heads, length, width).transpose(1, 2), None


def attention_for(config: Any, chosen: str) -> str:
    """Return `chosen`, or "eager" where "grouped" has nothing to save: every head has keys of its own.

    "fused" is for packed passes, which a bound on scores rules out: "grouped" then.

    Raises:
        CompatibilityError: "sdpa" for a model that bounds its scores, which would silently be another model.
    """
    if chosen == "sdpa" and getattr(config, "attn_logit_softcapping", None):
        found = f"sdpa, which leaves out the soft cap of {config.model_type}"
        raise CompatibilityError("an attention kernel that gives this model's numbers", found, "set model.attention to grouped")
    if chosen == FUSED and getattr(config, "attn_logit_softcapping", None):
        chosen = GROUPED
    heads, groups = getattr(config, "num_attention_heads", 1), getattr(config, "num_key_value_heads", None)
    return "eager" if chosen == GROUPED and (groups is None or groups == heads) else chosen


def kernels_for(config: Any) -> tuple[str, ...]:
    """Return the kernels that give a model's numbers, ours first: PyTorch's fused one leaves out Gemma 2's bound on scores."""
    grouped, bounded = attention_for(config, GROUPED) == GROUPED, bool(getattr(config, "attn_logit_softcapping", None))
    plain = ("eager",) if grouped else ()  # else it is what "grouped" stands for
    return (GROUPED, *plain, *(() if bounded else ("sdpa",)), *((FUSED,) if grouped and not bounded else ()))


def use_kernel(network: Any, chosen: str) -> None:
    """Let a loaded network attend with a kernel, as if it had been loaded with it.

    Raises:
        CompatibilityError: it cannot be changed, or would not give the model's numbers.
    """
    kernel = attention_for(network.config, chosen)
    if kernel == FUSED:
        fuse(network)
    network.set_attn_implementation(kernel)
    if network.config._attn_implementation != kernel:
        found = f"{type(network).__name__}, which keeps its own"
        raise CompatibilityError(f"a model that takes {kernel} attention", found, "set model.attention to eager")


_SIZES = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}


def layer_kinds(config: Any) -> tuple[str, ...]:
    """Return the kind of each layer, by `layer_types` where the config has them.

    A config without (Phi-3, Mistral) means its `sliding_window` for all its layers.
    """
    fallback = "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"
    return tuple(getattr(config, "layer_types", None) or [fallback] * config.num_hidden_layers)


def layer_windows(config: Any) -> tuple[int | None, ...]:
    """Return over how many positions each layer looks back, itself included; None where it sees all."""
    return tuple(_size(config, kind) for kind in layer_kinds(config))


def _size(config: Any, kind: str) -> int | None:
    found = getattr(config, _SIZES[kind], None) if kind in _SIZES else None
    return int(found) if found else None


def seen_by_kind(config: Any, position: Tensor, columns: int) -> dict[str, Tensor]:
    """Return for each kind of layer what queries see where column c holds the key of position c, B x 1 x T x `columns` bool.

    Args:
        config: of the network.
        position: of the queries, B x T.
        columns: keys.

    Raises:
        CompatibilityError: a layer that is not attention over keys (a state-space or convolution layer).
    """
    query, key = position[:, None, :, None], torch.arange(columns, device=position.device)
    causal = key <= query
    found = {}
    for kind in dict.fromkeys(layer_kinds(config)):
        size = _size(config, kind)
        if size is None and kind not in {"full_attention", *_SIZES}:
            raise CompatibilityError("layers of full, sliding or chunked attention", kind, "choose another model")
        if size is None:
            found[kind] = causal
        elif kind == "sliding_attention":
            found[kind] = causal & (key > query - size)
        else:
            found[kind] = causal & (key // size == query // size)
    return found


for _name in (GROUPED, FUSED):
    AttentionInterface.register(_name, grouped_attention)
    AttentionMaskInterface.register(_name, eager_mask)
