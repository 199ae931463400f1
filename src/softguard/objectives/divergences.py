"""Per-token divergences between next-token distributions, from logits, in nats.

Each takes student and teacher logits (N x V) and returns N values: zero at equality, never negative, blind to a shift of all
logits. `p` is the teacher, `q` the student.
"""

import math

import torch
from torch import Tensor


def total_variation(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return D_TV = 1/2 sum_v |p - q|, at most 1."""
    p, q = torch.softmax(teacher_logits, -1), torch.softmax(student_logits, -1)
    return 0.5 * (p - q).abs().sum(-1)


def forward_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return KL(teacher, student) = sum_v p (log p - log q): the divergence itself, not a cross-entropy."""
    return _kl(torch.log_softmax(teacher_logits, -1), torch.log_softmax(student_logits, -1))


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return KL(student, teacher) = sum_v q (log q - log p)."""
    return _kl(torch.log_softmax(student_logits, -1), torch.log_softmax(teacher_logits, -1))


def jensen_shannon(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return 1/2 KL(p, m) + 1/2 KL(q, m) with m = (p + q)/2: at most log 2."""
    log_p, log_q = torch.log_softmax(teacher_logits, -1), torch.log_softmax(student_logits, -1)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2.0)
    return 0.5 * (_kl(log_p, log_m) + _kl(log_q, log_m))


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    a = log_a.exp()
    return torch.where(a > 0, a * (log_a - log_b), 0.0).sum(-1).clamp(min=0.0)
