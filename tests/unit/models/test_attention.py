"""Grouped attention gives eager's numbers, forwards and backwards; the block-wise draw gives the plain inverse transform's."""

import shutil

import numpy as np
import pytest
import torch

from softguard.models import response_states
from softguard.models.attending import attend
from softguard.models.attention import FUSED, GROUPED, attention_for, use_kernel
from softguard.models.drawing import choose
from softguard.models.packing import Packing, attend_packed
from tests.fakes import tiny_model

PROMPTS = [[1, 2, 3, -1, 4], [9, 8, -2], [5, 6, 7, 8, 9, 10, -1]]
RESPONSES = [[11, 12, 13], [14], [15, 16]]


def states_and_gradient(kind: str, attention: str) -> tuple[torch.Tensor, torch.Tensor]:
    lm = tiny_model(kind)
    use_kernel(lm.network, attention)
    virtual = torch.randn(2, lm.width, generator=torch.Generator().manual_seed(1)).requires_grad_()
    states = response_states(lm, PROMPTS, RESPONSES, virtual).states
    (gradient,) = torch.autograd.grad(states.square().sum(), virtual)
    return states.detach(), gradient


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3"])
def test_grouped_is_eager(kind: str) -> None:
    for ours, theirs in zip(states_and_gradient(kind, GROUPED), states_and_gradient(kind, "eager"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not shutil.which("g++") and not shutil.which("clang++"), reason="nothing compiles here")
@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_fused_is_eager(kind: str) -> None:
    for ours, theirs in zip(states_and_gradient(kind, FUSED), states_and_gradient(kind, "eager"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_rows_of_unlike_lengths_that_share_a_beginning_are_those_alone() -> None:
    """Packed, in several groups and one row, against each prompt in a pass of its own."""
    lm = tiny_model()
    shared = list(range(20, 32))
    prompts = [[*shared, *range(1, 2 + 7 * k)] for k in range(5)] + [[*shared, 99]]
    responses = [[5] * (1 + k) for k in range(5)] + [[7, 8]]
    virtual = torch.randn(2, lm.width, generator=torch.Generator().manual_seed(1)).requires_grad_()
    prompts = [[-1, -2, *p] for p in prompts]
    prompts, responses = prompts + prompts[:2], [*responses, [11, 12, 13], []]  # two answers to one prompt
    together = response_states(lm, prompts, responses, virtual)
    alone = [response_states(lm, [p], [r], virtual).states for p, r in zip(prompts, responses, strict=True)]
    torch.testing.assert_close(together.states, torch.cat(alone), rtol=1e-4, atol=1e-5)
    by_all, by_each = (torch.autograd.grad(s.square().sum(), virtual)[0] for s in (together.states, torch.cat(alone)))
    torch.testing.assert_close(by_all, by_each, rtol=1e-4, atol=1e-4)


def test_a_model_without_groups_keeps_its_own_attention() -> None:
    assert attention_for(tiny_model("gpt2").network.config, GROUPED) == "eager"
    assert attention_for(tiny_model("llama").network.config, GROUPED) == GROUPED
    assert attention_for(tiny_model("llama").network.config, "sdpa") == "sdpa"


@pytest.mark.parametrize("size", [7, 256, 1000])
def test_draws_are_those_of_the_plain_inverse_transform(size: int) -> None:
    rows = 200
    logits = torch.randn(rows, size, generator=torch.Generator().manual_seed(size)) * 3
    uniform = torch.tensor(np.random.default_rng(0).random(rows))
    for temperature in (1.0, 0.7):
        cumulative = torch.softmax(logits / temperature, -1).double().cumsum(-1)
        plain = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True).squeeze(1)
        assert torch.equal(choose(logits, temperature, uniform), plain)


def test_what_is_impossible_is_never_drawn() -> None:
    logits = torch.zeros(500, 600)
    logits[:, ::2] = -torch.inf
    drawn = choose(logits, 1.0, torch.linspace(0, 1 - 1e-9, 500, dtype=torch.float64))
    assert (drawn % 2 == 1).all()


@pytest.mark.parametrize("masked", [True, False])
def test_the_gradient_is_autograds_where_values_have_a_width_of_their_own(masked: bool) -> None:
    drawn = torch.Generator().manual_seed(0)
    shapes = ((2, 4, 5, 6), (2, 2, 7, 6), (2, 2, 7, 3))
    given = [torch.randn(*shape, dtype=torch.float64, generator=drawn).requires_grad_() for shape in shapes]
    mask = torch.randn(1, 1, 5, 7, dtype=torch.float64, generator=drawn) if masked else None
    assert torch.autograd.gradcheck(lambda q, k, v: attend(q, k, v, mask, 0.3), given)
    q, k, v = given
    scores = 0.3 * q @ k.repeat_interleave(2, 1).transpose(2, 3) + (0 if mask is None else mask)
    torch.testing.assert_close(attend(q, k, v, mask, 0.3), scores.softmax(-1) @ v.repeat_interleave(2, 1))


def test_the_gradient_of_packed_attention_is_autograds() -> None:
    drawn = torch.Generator().manual_seed(0)
    branches = [[0, 0, 1, 2], [0, 1, 1, 2, 2], [0] * 9]
    packing = Packing.of(3, branches, torch.float64, torch.device("cpu"), fused=False)
    assert len(packing.groups) == 3  # the shared tokens, two of nearly equal length, a longer one
    tokens = 3 + sum(map(len, branches))
    given = [
        torch.randn(1, heads, tokens, width, dtype=torch.float64, generator=drawn).requires_grad_()
        for heads, width in ((4, 5), (2, 5), (2, 3))
    ]
    assert torch.autograd.gradcheck(lambda q, k, v: attend_packed(q, k, v, packing, 0.3), given)
