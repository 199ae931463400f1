"""Objectives against brute force, float64, known bounds and their own invariances."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softguard.core.head import Head
from softguard.objectives import OBJECTIVES, Branch, ObjectiveInput, Outcomes
from softguard.objectives import divergences as d
from softguard.objectives.decision_split import DecisionSplit, DecisionSplitConfig, ranking_loss
from softguard.objectives.dense import DenseConfig, dense, teacher_first_logits
from softguard.objectives.sequence import SequenceConfig, branch_loss

ALL = [d.total_variation, d.forward_kl, d.reverse_kl, d.jensen_shannon]
seeds = st.integers(0, 10_000)
IDENTITY = Head(torch.eye(7, dtype=torch.float64))
"""States are logits then."""


def logits(seed: int, rows: int = 5, vocabulary: int = 7, scale: float = 2.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed), dtype=dtype) * scale


@pytest.mark.parametrize("divergence", ALL)
@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_divergence_algebra(divergence, seed):
    q, p = logits(seed), logits(seed + 1)
    value = divergence(q, p)
    assert (value >= 0).all()
    assert torch.allclose(divergence(p, p), torch.zeros(5, dtype=p.dtype), atol=1e-12)
    shift = logits(seed + 2, vocabulary=1)
    assert torch.allclose(divergence(q + shift, p - shift), value, atol=1e-10)
    permutation = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(divergence(q[:, permutation], p[:, permutation]), value, atol=1e-12)


@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_total_variation_bounds(seed):
    q, p = logits(seed), logits(seed + 1)
    tv = d.total_variation(q, p)
    assert (tv <= 1).all()
    assert torch.allclose(tv, d.total_variation(p, q))
    assert (tv <= torch.sqrt(d.forward_kl(q, p) / 2) + 1e-12).all()  # Pinsker
    assert (d.jensen_shannon(q, p) <= math.log(2) + 1e-12).all()


@pytest.mark.parametrize("divergence", ALL)
def test_divergence_gradient_and_extremes(divergence):
    q, p = logits(0).requires_grad_(), logits(1)
    assert torch.autograd.gradcheck(lambda x: divergence(x, p), q)
    big = (logits(2, dtype=torch.float32) * 1e4).requires_grad_()
    value = divergence(big, logits(3, dtype=torch.float32) * 1e4)
    assert torch.isfinite(value).all()
    value.sum().backward()
    assert torch.isfinite(big.grad).all()
    low = divergence(q.float(), p.float())
    assert torch.allclose(low.double(), divergence(q, p), atol=1e-5)


def sequence_loss(alpha, l_y, l_r, clip):
    """The loss of a row with one refusal, as `SequenceObjective` adds it up."""
    return branch_loss(alpha, l_y, clip)[0] + branch_loss(1 - alpha, l_r, clip)[0]


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 1e-8, 0.3, 0.999, 1.0])
def test_sequence_loss_against_brute_force(clip, alpha):
    l_y = torch.tensor([-34.0], dtype=torch.float64, requires_grad=True)
    l_r = torch.tensor([-2.0], dtype=torch.float64, requires_grad=True)
    loss = sequence_loss(torch.tensor([alpha], dtype=torch.float64), l_y, l_r, clip)
    expected, gradient = 0.0, [0.0, 0.0]
    for k, (weight, value) in enumerate([(alpha, -34.0), (1 - alpha, -2.0)]):
        if weight > 0:
            gap = value - math.log(weight)
            expected -= weight * (min(0.0, gap) if clip else gap)
            gradient[k] = 0.0 if clip and gap > 0 else -weight
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    loss.sum().backward()
    assert [l_y.grad.item(), l_r.grad.item()] == pytest.approx(gradient)


def test_sequence_loss_masks_an_infinite_absent_branch():
    l_y = torch.tensor([-math.inf], requires_grad=True)
    loss = sequence_loss(torch.tensor([0.0]), l_y, torch.tensor([-1.0]), True)
    loss.sum().backward()
    assert loss.item() == pytest.approx(1.0)
    assert l_y.grad.item() == 0.0


def test_kl_disp_is_the_divergence_over_a_toy_vocabulary():
    """Sum over all y of p(y) * loss(y) - entropy terms equals KL(p(r|x), q(r|x)) for disjoint branches."""
    p_y = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    alpha = torch.tensor([0.9, 0.4, 0.0], dtype=torch.float64)
    q = torch.tensor([0.3, 0.2, 0.1, 0.4], dtype=torch.float64)  # the last is the refusal
    teacher = torch.cat([p_y * alpha, (p_y * (1 - alpha)).sum()[None]])
    terms = torch.where(teacher > 0, teacher * (torch.log(teacher.clamp(min=1e-300)) - torch.log(q)), 0.0)
    loss = sequence_loss(alpha, torch.log(q[:3]), torch.log(q[3]).expand(3), False)
    pi = 1 - (p_y * alpha).sum()
    entropy_shift = (p_y * alpha * torch.log(p_y)).sum() + pi * torch.log(pi)
    entropy_shift -= (p_y * torch.where(alpha < 1, (1 - alpha) * torch.log((1 - alpha).clamp(min=1e-300)), 0.0)).sum()
    assert ((p_y * loss).sum() + entropy_shift).item() == pytest.approx(terms.sum().item(), abs=1e-9)


def batch(alpha: torch.Tensor, seed: int = 0, t_y: int = 3, t_r: int = 2, student=None) -> ObjectiveInput:
    rows, v = len(alpha), 7

    def branch(length: int, s: int, dense: bool) -> Branch:
        n = rows * length
        given = student if dense and student is not None else logits(s, n, v)
        targets = torch.randint(v, (n,), generator=torch.Generator().manual_seed(s))
        row, position = torch.arange(rows).repeat_interleave(length), torch.arange(length).repeat(rows)
        return Branch(IDENTITY, given, targets, row, position, logits(s + 9, n, v) if dense else None)

    answer = branch(t_y, seed, True)
    at = answer.position == 0
    return ObjectiveInput(alpha, answer, branch(t_r, seed + 1, False), answer.states[at], answer.teacher_states[at], 2)


def objectives():
    yield from ((k, OBJECTIVES.get(k)(SequenceConfig(kind=k))) for k in ("tv_disp", "kl_disp"))
    for kind, reduction in itertools.product(["total_variation", "forward_kl", "reverse_kl", "jensen_shannon"], ["sum", "mean"]):
        yield f"{kind}-{reduction}", dense(DenseConfig(kind=kind, reduction=reduction))
    yield "decision_split", DecisionSplit(DecisionSplitConfig(ranking_weight=0.5))


@pytest.mark.parametrize(("name", "objective"), list(objectives()), ids=lambda x: x if isinstance(x, str) else "")
@pytest.mark.parametrize("alpha", [[0.0, 1.0, 0.5], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
def test_every_objective_is_finite_with_gradients_at_exact_alpha(name, objective, alpha):
    student = logits(0, 9, 7).requires_grad_()
    output = objective(batch(torch.tensor(alpha, dtype=torch.float64), student=student))
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert torch.isfinite(student.grad).all()


def test_teacher_first_distribution_is_the_mixture():
    base = logits(4, 3)
    alpha = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    mixed = torch.softmax(teacher_first_logits(base, alpha, Outcomes.refusals(alpha, 2)), -1)
    onehot = torch.zeros(3, 7, dtype=torch.float64)
    onehot[:, 2] = 1
    assert torch.allclose(mixed, alpha[:, None] * torch.softmax(base, -1) + (1 - alpha)[:, None] * onehot)


@pytest.mark.parametrize("kind", ["total_variation", "forward_kl"])
def test_given_its_first_token_the_rest_of_the_refusal_is_certain(kind):
    """The weight 1 - alpha is the decision's, counted at the first token: what follows aims at log 1, not at log(1 - alpha)."""
    given = batch(torch.tensor([0.5], dtype=torch.float64))
    sure = torch.zeros(2, 7, dtype=torch.float64)
    sure[torch.arange(2), given.refusal.targets] = 4.0  # q = 0.9, far above 1 - alpha
    sure.requires_grad_()
    refusal = Branch(IDENTITY, sure, given.refusal.targets, given.refusal.row, given.refusal.position)
    output = dense(DenseConfig(kind=kind))(replace(given, refusal=refusal))
    output.loss.backward()
    assert output.metrics["refusal"] == pytest.approx(-refusal.log_probs()[1].item())
    assert sure.grad[0].abs().sum() == 0
    assert sure.grad[1, given.refusal.targets[1]] == pytest.approx(-0.5 * (1 - refusal.log_probs()[1].exp().item()))


@given(shift=st.floats(-20, 20))
@settings(deadline=None)
def test_ranking_is_blind_to_a_shift(shift):
    s, pi = torch.tensor([1.0, -1.0, 0.5]), torch.tensor([0.98, 0.02, 0.01])
    assert ranking_loss(s, pi, 4.0).item() == pytest.approx(ranking_loss(s + shift, pi, 4.0).item(), abs=1e-4)


def test_decision_split_pulls_rho_towards_pi():
    alpha = torch.tensor([0.0, 1.0], dtype=torch.float64)
    student = logits(0, 6, 7).requires_grad_()
    loss = DecisionSplit(DecisionSplitConfig(answer_weight=0, refusal_weight=0))(batch(alpha, student=student)).loss
    loss.backward()
    assert student.grad[0, 2] < 0 < student.grad[3, 2]
