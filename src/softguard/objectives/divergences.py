"""Per-token divergences between next-token distributions, from logits, in nats.

Each takes student and teacher logits (N x V) and returns N values: zero at equality, never negative, blind to a shift of all
logits. `p` is the teacher, `q` the student.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def total_variation(
    student_logits: Float[Tensor, "tokens vocab"], teacher_logits: Float[Tensor, "tokens vocab"]
) -> Float[Tensor, " tokens"]:
    """Return D_TV = 1/2 sum_v |p - q|, at most 1."""
    p, q = torch.softmax(teacher_logits, -1), torch.softmax(student_logits, -1)
    return 0.5 * (p - q).abs().sum(-1)


def forward_kl(
    student_logits: Float[Tensor, "tokens vocab"], teacher_logits: Float[Tensor, "tokens vocab"]
) -> Float[Tensor, " tokens"]:
    """Return KL(teacher, student) = sum_v p (log p - log q): the divergence itself, not a cross-entropy."""
    return _kl(torch.log_softmax(teacher_logits, -1), torch.log_softmax(student_logits, -1))


def reverse_kl(
    student_logits: Float[Tensor, "tokens vocab"], teacher_logits: Float[Tensor, "tokens vocab"]
) -> Float[Tensor, " tokens"]:
    """Return KL(student, teacher) = sum_v q (log q - log p)."""
    return _kl(torch.log_softmax(student_logits, -1), torch.log_softmax(teacher_logits, -1))


def jensen_shannon(
    student_logits: Float[Tensor, "tokens vocab"], teacher_logits: Float[Tensor, "tokens vocab"]
) -> Float[Tensor, " tokens"]:
    """Return 1/2 KL(p, m) + 1/2 KL(q, m) with m = (p + q)/2: at most log 2."""
    log_p, log_q = torch.log_softmax(teacher_logits, -1), torch.log_softmax(student_logits, -1)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2.0)
    return 0.5 * (_kl(log_p, log_m) + _kl(log_q, log_m))


def tempered_total_variation(
    student_logits: Float[Tensor, "tokens vocab"], teacher_logits: Float[Tensor, "tokens vocab"], exponent: float
) -> Float[Tensor, " tokens"]:
    """Return sum_v p (1 - min(1, q/p)^k) / k with k the exponent in (0, 1], at most 1/k.

    k = 1 is the total variation; k -> 0 is the forward KL with eq. 4's clip on each token. Against a point mass it is
    (1 - q^k)/k, whose gradient with respect to the token's logit, -q^k (1-q), lives on where the total variation's, -q (1-q), has
    vanished. It is the f-divergence of (1 - min(1, u)^k)/k, convex for k <= 1, hence 0 only at equality.

    References:
        Zhang and Sabuncu 2018, arXiv 1805.07836, eq. 6, the case of a point mass.
    """
    log_p, log_q = torch.log_softmax(teacher_logits, -1), torch.log_softmax(student_logits, -1)
    short = (log_q - log_p).clamp(max=0.0)
    return (log_p.exp() * -torch.expm1(exponent * short)).sum(-1) / exponent


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    a = log_a.exp()
    return torch.where(a > 0, a * (log_a - log_b), 0.0).sum(-1).clamp(min=0.0)
