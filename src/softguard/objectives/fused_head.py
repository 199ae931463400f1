"""Head and divergence in one pass over chunks of positions: a figure per token from final states, never all logits at once.

Each figure is a scalar function of one row of logits, so its gradient with respect to that row's state is one vector of width D.
It is taken while the chunk's logits are at hand and kept instead of them: memory grows with positions x D, not positions x V;
backwards, nothing is left but a product by the incoming scalar. The head is frozen and gets no gradient.
`divergences` holds the plain forms that this is checked against; on CUDA `triton_head` does the same without a chunk's logits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from softguard.core.head import Head
from softguard.errors import CompatibilityError, DataError
from softguard.objectives import triton_head

ByLogit = Callable[[], Tensor]
"""Gives the gradient of a row's figure with respect to its logits; it may use up what the figure was made of."""
Figure = Literal["log_prob", "total_variation", "forward_kl", "reverse_kl", "jensen_shannon", "tempered_total_variation"]

CHUNK_BYTES, PART_LOGITS = 2**24, 2**19
"""Products with the head are made of a chunk, some 170 positions of a vocabulary of 49 thousand in bfloat16, two buffers of 16
MiB: fewer rows would read the head anew for little work. What follows is done on parts of it, whose six buffers of 2 MiB a
processor's own cache holds."""
_OMITTED = -1e4
"""The logit of an omitted token: a probability of 0, and yet no infinity whose product with 0 is NaN."""


@dataclass(frozen=True)
class TokenFigures:
    """N each: the figure, with its graph, and the log-probability of the target, without one."""

    values: Tensor
    log_probs: Tensor


def token_figures(
    figure: Figure,
    head: Head,
    states: Tensor,
    targets: Tensor,
    teacher_states: Tensor | None = None,
    omit: tuple[Tensor, Tensor] | None = None,
    exponent: float = 1.0,
) -> TokenFigures:
    """Return one figure per position, differentiable once with respect to `states`.

    Args:
        figure: "log_prob" of the target, or a divergence from the teacher's distribution, in nats (`divergences`).
        head: of both models; frozen.
        states: N x D, the student's; N x (D + C) of one with C tokens that the head has no row for.
        targets: N, the tokens.
        teacher_states: N x D, the base model's, in which such tokens have probability 0; not needed for "log_prob".
        omit: (indices, tokens), M each: at each of these indices both distributions are taken without that token and
            renormalised. The log-probabilities of the targets are of the whole distribution all the same.
        exponent: k of "tempered_total_variation", in (0, 1].

    Raises:
        DataError: a divergence without the teacher's states, or with states of another shape.
        CompatibilityError: the head is not frozen.
    """
    if (figure == "log_prob") != (teacher_states is None):
        found = "none" if teacher_states is None else "some"
        raise DataError("the teacher's states for a divergence, none for log_prob", f"{found} for {figure}", "give what it needs")
    shape = (len(states), head.weight.shape[1])
    if teacher_states is not None and teacher_states.shape not in (states.shape, shape):
        raise DataError(f"teacher states of shape {shape}", str(tuple(teacher_states.shape)), "take the same tokens")
    if head.weight.requires_grad:
        raise CompatibilityError("a frozen head", "one that learns", "freeze it, or take `divergences` on its logits")
    if not torch.is_grad_enabled():
        states = states.detach()  # `needs_input_grad` does not ask whether gradients are enabled
    values, log_probs = _TokenFigures.apply(states, figure, head, targets, teacher_states, omit, exponent)  # type: ignore[no-untyped-call]
    return TokenFigures(values, log_probs)


class _TokenFigures(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        figure: Figure,
        head: Head,
        targets: Tensor,
        teacher_states: Tensor | None,
        omit: tuple[Tensor, Tensor] | None,
        exponent: float,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.float64 if states.dtype == torch.float64 else torch.float32
        values, log_probs = (torch.empty(len(states), dtype=wide, device=states.device) for _ in range(2))
        wanted = ctx.needs_input_grad[0]
        if triton_head.supported(head, states, teacher_states):
            found = triton_head.figures(figure, head, states, targets, teacher_states, omit, exponent, wanted=wanted)
            ctx.save_for_backward(*([] if found.gradient is None else [found.gradient]))
            ctx.mark_non_differentiable(found.log_probs)
            return found.values, found.log_probs
        gradient = torch.empty_like(states) if wanted else None
        fit = (CHUNK_BYTES // head.weight.element_size(), PART_LOGITS)
        chunk, part = (max(1, most // len(head.weight)) for most in fit)
        for begin, start in ((b, s) for b in range(0, len(states), chunk) for s in range(b, min(b + chunk, len(states)), part)):
            if start == begin:
                whole = slice(begin, begin + chunk)
                products = head.products(states[whole])
                of_teacher = None if teacher_states is None else head.products(teacher_states[whole])
            end = min(start + part, begin + chunk, len(states))
            rows, own = slice(start, end), slice(start - begin, end - begin)
            logits = head.finished(products[own])
            slope = None
            if wanted and head.softcap is not None:
                slope = 1 - (logits / head.softcap) ** 2
            normaliser = torch.logsumexp(logits, 1)
            chosen = targets[rows, None]
            log_probs[rows] = logits.gather(1, chosen).squeeze(1) - normaliser
            if of_teacher is None:
                values[rows], by_logit = _log_prob(logits.sub_(normaliser[:, None]), chosen)
            else:
                teacher = head.finished(of_teacher[own])
                teacher = F.pad(teacher, (0, logits.shape[1] - teacher.shape[1]), value=_OMITTED)
                inside = None if omit is None else (omit[0] >= start) & (omit[0] < end)
                if omit is not None and inside is not None and inside.any():
                    where = (omit[0][inside] - start, omit[1][inside])
                    logits[where] = teacher[where] = _OMITTED
                    normaliser = torch.logsumexp(logits, 1)
                log_p = teacher.sub_(torch.logsumexp(teacher, 1, keepdim=True))
                log_q = logits.sub_(normaliser[:, None])
                if figure == "tempered_total_variation":
                    values[rows], by_logit = _tempered_total_variation(log_q, log_p, exponent)
                else:
                    values[rows], by_logit = _DIVERGENCES[figure](log_q, log_p)
            if gradient is not None:
                slopes = by_logit() if slope is None else by_logit() * slope
                products[own] = slopes if head.scale == 1.0 else slopes * head.scale
                if end == min(begin + chunk, len(states)):
                    tokens, width = head.weight.shape
                    gradient[whole, :width] = products[:, :tokens] @ head.weight
                    gradient[whole, width:] = products[:, tokens:]
        ctx.save_for_backward(*([] if gradient is None else [gradient]))
        ctx.mark_non_differentiable(log_probs)
        return values, log_probs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *incoming: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * incoming[0][:, None].to(gradient.dtype), *[None] * 6)


def _log_prob(log_q: Tensor, chosen: Tensor) -> tuple[Tensor, ByLogit]:
    value = log_q.gather(1, chosen).squeeze(1)
    return value, lambda: log_q.exp_().neg_().scatter_add_(1, chosen, torch.ones_like(value)[:, None])


def _total_variation(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, ByLogit]:
    q = log_q.exp_()
    gap = q - log_p.exp_()
    value = 0.5 * gap.abs().sum(1)

    def by_logit() -> Tensor:
        sign = gap.sign_()
        return 0.5 * q * (sign - (q * sign).sum(1, keepdim=True))

    return value, by_logit


def _forward_kl(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, ByLogit]:
    p = log_p.exp()
    value = (p * log_p.sub_(log_q)).sum(1).clamp_(min=0.0)
    return value, lambda: log_q.exp_().sub_(p)


def _reverse_kl(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, ByLogit]:
    gap = log_q - log_p
    q = log_q.exp_()
    value = (q * gap).sum(1)
    return value.clamp(min=0.0), lambda: gap.sub_(value[:, None]).mul_(q)


def _jensen_shannon(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, ByLogit]:
    log_m = torch.logaddexp(log_p, log_q).sub_(math.log(2.0))
    own = log_q - log_m
    q = log_q.exp_()
    from_q = (q * own).sum(1)
    from_p = (log_p.exp() * log_m.neg_().add_(log_p)).sum(1)
    return (0.5 * (from_q + from_p)).clamp_(min=0.0), lambda: own.sub_(from_q[:, None]).mul_(q).mul_(0.5)


def _tempered_total_variation(log_q: Tensor, log_p: Tensor, exponent: float) -> tuple[Tensor, ByLogit]:
    p = log_p.exp()
    gap = log_p.neg_().add_(log_q).clamp_(max=0.0)  # log min(1, q/p)
    short = gap < 0
    value = (p * torch.expm1(exponent * gap).neg_()).sum(1) / exponent

    def by_logit() -> Tensor:
        pull = gap.mul_(exponent).exp_().mul_(p).mul_(short)
        return log_q.exp_().mul_(pull.sum(1, keepdim=True)).sub_(pull)

    return value, by_logit


_DIVERGENCES: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, ByLogit]]] = {
    "total_variation": _total_variation,
    "forward_kl": _forward_kl,
    "reverse_kl": _reverse_kl,
    "jensen_shannon": _jensen_shannon,
}
