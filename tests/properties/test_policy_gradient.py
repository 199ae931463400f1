"""REINFORCE and PPO where the truth is known: a bandit, whose gradient can be summed over all arms."""

import pytest
import torch

from softguard.core.head import Head
from softguard.objectives import OBJECTIVES, Branch, ObjectiveInput, Samples
from softguard.registry import config_class

ARMS = 4
REWARD = torch.tensor([0.1, 0.3, 0.9, 0.2], dtype=torch.float64)
HEAD = Head(torch.eye(ARMS, dtype=torch.float64))


def made(name: str, **settings: object):
    factory = OBJECTIVES.get(name)
    return factory(config_class(factory)(kind=name, **settings))


def pulls(
    logits: torch.Tensor, arms: torch.Tensor, past: list[float], values: torch.Tensor, old: torch.Tensor | None, old_values=None
):
    """Return the batch of one-token responses `arms`, each of a row of its own."""
    n = len(arms)
    zero, row = torch.zeros(n, dtype=torch.long), torch.arange(n)
    base = torch.zeros(n, ARMS, dtype=torch.float64)
    answer = Branch(HEAD, logits.expand(n, -1), arms, row, zero, base)
    none = Branch(HEAD, base[:0], zero[:0], zero[:0], zero[:0])
    empty = base.new_zeros(n, 0)
    each = values.expand(n)
    before = each.detach() if old_values is None else old_values.expand(n)
    samples = Samples(REWARD[arms], torch.tensor(past, dtype=torch.float64), each, before, None if old is None else old[arms])
    return ObjectiveInput(REWARD[arms], answer, none, empty, empty, 0, samples=samples)


def test_the_expected_gradient_of_reinforce_is_that_of_the_expected_reward():
    """sum_a q(a) grad L(a) = -grad E[R], for any baseline that does not know the arm."""
    logits = torch.tensor([0.3, -0.5, 0.1, 1.0], dtype=torch.float64, requires_grad=True)
    value = torch.zeros((), dtype=torch.float64)
    q = torch.softmax(logits, 0)
    (truth,) = torch.autograd.grad((q * REWARD).sum(), logits)
    for past in ([0.0], [0.7, 0.2]):
        ours = torch.zeros(ARMS, dtype=torch.float64)
        for arm in range(ARMS):
            loss = made("reinforce")(pulls(logits, torch.tensor([arm]), past, value, None)).loss
            ours += q[arm].detach() * torch.autograd.grad(loss, logits)[0]
        assert torch.allclose(ours, -truth, atol=1e-12)


@pytest.mark.parametrize("name", ["reinforce", "ppo"])
def test_it_finds_the_best_arm(name):
    objective = made(name)
    generator = torch.Generator().manual_seed(0)
    logits = torch.zeros(ARMS, dtype=torch.float64, requires_grad=True)
    value = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([logits, value], lr=0.1)
    rewards = []
    for _ in range(120):
        arms = torch.multinomial(torch.softmax(logits.detach(), 0), 16, replacement=True, generator=generator)
        old = torch.log_softmax(logits.detach(), 0)
        before = value.detach().clone()
        for _ in range(objective.sampling.updates):
            optimiser.zero_grad()
            objective(pulls(logits, arms, rewards, value, old, before)).loss.backward()
            optimiser.step()
        rewards.append(REWARD[arms].mean().item())
    assert rewards[0] < 0.45  # 0.375 is what pulling at random earns
    assert (torch.softmax(logits, 0) * REWARD).sum().item() > 0.8
    assert name == "reinforce" or value.item() == pytest.approx(0.87, abs=0.15)  # what is earned at the end


@pytest.mark.parametrize(("ahead", "other", "pushed"), [(2, 1, False), (0, 3, True)], ids=["a good arm", "a bad arm"])
def test_ppo_pushes_beyond_the_clip_only_backwards(ahead, other, pushed):
    """`ahead` is already far more probable than when it was drawn: where it is the better one, nothing is left to do."""
    logits = torch.zeros(ARMS, dtype=torch.float64)
    logits[ahead] = 2.0
    logits.requires_grad_()
    old = torch.full((ARMS,), 0.25, dtype=torch.float64).log()
    given = pulls(logits, torch.tensor([ahead, other]), [], torch.zeros((), dtype=torch.float64), old)
    (gradient,) = torch.autograd.grad(made("ppo", reference_kl_weight=0.0)(given).loss, logits)
    if pushed:
        assert gradient[ahead] > 0 > gradient[other]
    else:
        assert gradient.abs().sum() == 0
