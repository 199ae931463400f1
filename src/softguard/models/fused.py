"""The kernel "fused": "grouped", and norms, rotations and gates in one pass over memory each, forwards and backwards.

On a processor with matrix units products are so short that what stands between them takes as long; eager PyTorch reads and
writes a tensor anew for each of a norm's eight steps. The passes are pure functions, compiled (`torch.compile`), so that no
adapter's hook can be lost in them (decision 0028). They stand in for a network's own only in packed passes (`packing`), and only
where they gave the same numbers when they were put in. Compiling takes some ten seconds once on a machine and a few in each later
process.
"""

import sys
from collections.abc import Callable
from functools import cache
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from softguard.errors import CompatibilityError
from softguard.models.packing import Packing, current, packed

_ALIKE = 0.02
"""Largest difference from a module's own output, of its largest number, on random input: two roundings of bfloat16."""


def fuse(network: Any) -> None:
    """Give a network's norms, rotations and gated layers forms in one pass, which act in packed passes that ask for them.

    Raises:
        CompatibilityError: nothing can be compiled here.
    """
    try:
        _compiled(_gated)(torch.ones(2, 2), torch.ones(2, 2))
    except RuntimeError as error:
        todo = "install one (g++ or clang), or set model.attention to grouped"
        raise CompatibilityError("a C++ compiler", str(error).strip().splitlines()[0][:160], todo) from error
    for module in network.modules():
        form = _norm if _is_norm(module) else _gated_layer if _is_gated(module) else None
        if form is not None and not isinstance(module.__dict__.get("forward"), MethodType) and _alike(module, form):
            module.forward = MethodType(form, module)
    _fuse_rotation(sys.modules[type(network).__module__])


def _in_a_fused_pass() -> bool:
    packing = current()
    return packing is not None and packing.fused


def _is_norm(module: nn.Module) -> bool:
    return type(module).__name__.endswith("RMSNorm") and getattr(module, "weight", None) is not None


def _norm(self: Any, states: Tensor) -> Tensor:
    if not _in_a_fused_pass():
        plain: Tensor = type(self).forward(self, states)
        return plain
    epsilon = getattr(self, "variance_epsilon", None) or self.eps
    return _applied(_Norm, states, self.weight, float(epsilon), 1.0 if type(self).__name__.startswith("Gemma") else 0.0)


def _is_gated(module: nn.Module) -> bool:
    silu = type(getattr(module, "act_fn", None)).__name__ in ("SiLU", "SiLUActivation")
    return silu and all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj"))


def _gated_layer(self: Any, states: Tensor) -> Tensor:
    if not _in_a_fused_pass():
        plain: Tensor = type(self).forward(self, states)
        return plain
    out: Tensor = self.down_proj(_applied(_Gate, self.gate_proj(states), self.up_proj(states)))
    return out


@torch.no_grad()
def _alike(module: Any, form: Callable[[Any, Tensor], Tensor]) -> bool:
    weight = next(module.parameters())
    given = torch.randn(3, weight.shape[-1], generator=torch.Generator().manual_seed(0)).to(weight)
    try:
        plain = module(given)
        with packed(Packing(0, (), fused=True)):
            fused = form(module, given)
    except (AttributeError, RuntimeError, TypeError):  # a norm or a gate of another kind
        return False
    return fused.dtype == plain.dtype and bool((plain - fused).abs().max() <= _ALIKE * plain.abs().max())


def _fuse_rotation(family: Any) -> None:
    """Let a family's own rotation of queries and keys be ours in packed passes, where it is the usual one."""
    plain = getattr(family, "apply_rotary_pos_emb", None)
    if plain is None or hasattr(plain, "softguard_plain"):
        return

    def rotated(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *further: Any, **named: Any) -> Any:
        if further or named or cos.shape[-1] != q.shape[-1] or not _in_a_fused_pass():
            return plain(q, k, cos, sin, *further, **named)
        return _applied(_Rotate, q, cos, sin), _applied(_Rotate, k, cos, sin)

    drawn = torch.Generator().manual_seed(0)
    q, cos, sin = (torch.randn(*shape, generator=drawn) for shape in ((1, 2, 3, 8), (1, 3, 4), (1, 3, 4)))
    cos, sin = (torch.cat([x, x], -1) for x in (cos, sin))
    try:
        same = torch.allclose(plain(q, q, cos, sin)[0], _applied(_Rotate, q, cos, sin), atol=1e-5)
    except (RuntimeError, TypeError):  # another signature
        return
    if same:
        rotated.softguard_plain = plain  # type: ignore[attr-defined]
        family.apply_rotary_pos_emb = rotated


def _applied(function: Any, *given: Any) -> Tensor:
    made: Tensor = function.apply(*given)
    return made


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    made: Callable[..., Any] = torch.compile(function, dynamic=True)
    return made


def _normed(states: Tensor, weight: Tensor, epsilon: float, shift: float) -> tuple[Tensor, Tensor]:
    wide = states.float()
    inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    if shift:
        return (wide * inverse * (shift + weight.float())).to(states.dtype), inverse
    return weight * (wide * inverse).to(states.dtype), inverse


def _normed_back(given: Tensor, states: Tensor, inverse: Tensor, weight: Tensor, shift: float) -> Tensor:
    unit = states.float() * inverse
    scaled = given.float() * (shift + weight.float())
    return ((scaled - unit * (scaled * unit).mean(-1, keepdim=True)) * inverse).to(states.dtype)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, epsilon: float, shift: float) -> Tensor:
        out: Tensor
        out, inverse = _compiled(_normed)(states, weight, epsilon, shift)
        ctx.save_for_backward(states, inverse, weight)
        ctx.shift = shift
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        return _compiled(_normed_back)(given[0], *ctx.saved_tensors, ctx.shift), None, None, None


def _rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """B x T x heads x d."""
    half = heads.shape[-1] // 2
    first, second = heads[..., :half], heads[..., half:]
    one = first * cos[..., :half] - second * sin[..., :half]
    other = second * cos[..., half:] + first * sin[..., half:]
    return torch.cat([one, other], -1)


def _rotated_back(given: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = given.shape[-1] // 2
    first, second = given[..., :half], given[..., half:]
    one = first * cos[..., :half] + second * sin[..., half:]
    other = second * cos[..., half:] - first * sin[..., :half]
    return torch.cat([one, other], -1)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        cos, sin = cos[:, :, None], sin[:, :, None]
        ctx.save_for_backward(cos, sin)
        out: Tensor = _compiled(_rotated)(heads.transpose(1, 2), cos, sin).transpose(1, 2)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        return _compiled(_rotated_back)(given[0].transpose(1, 2), *ctx.saved_tensors).transpose(1, 2), None, None


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate) * up


def _gated_back(given: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    wide, sent = gate.float(), given.float()
    share = torch.sigmoid(wide)
    by_gate = sent * up.float() * share * (1 + wide * (1 - share))
    return by_gate.to(gate.dtype), (sent * wide * share).to(gate.dtype)


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        out: Tensor = _compiled(_gated)(gate, up)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        by_gate, by_up = _compiled(_gated_back)(given[0], *ctx.saved_tensors)
        return by_gate, by_up
