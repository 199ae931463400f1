"""The Triton kernels against the plain divergences in float64: values and gradients.

Without CUDA they run in Triton's interpreter, which `conftest.py` asks for before anything imports Triton.
"""

from functools import partial
from importlib.util import find_spec

import pytest
import torch

from softguard.core.head import Head
from softguard.objectives import divergences, triton_head
from softguard.objectives.fused_head import token_figures
from softguard.objectives.triton_head import Tiling

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed (extra `cuda`)")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

N, D, V = 19, 24, 45
"""Multiples of no tile: two blocks of rows with a rest, two tiles of tokens with a rest, two steps of the width with a rest."""
TILING = Tiling(16, 32, 16, 4, 2)
DIVERGENCES = ["total_variation", "forward_kl", "reverse_kl", "jensen_shannon", "tempered_total_variation"]
EXPONENT = 0.4
OMIT = ([0, 2, 4, 4, 10, 10, 17], [3, 3, 3, 7, 12, 12, 44])  # two tokens at one place, one twice
GRADIENT_WITHIN = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}  # slopes are kept in the head's type


def given(dtype, bias=False, scale=1.0, softcap=None):
    g = torch.Generator().manual_seed(0)
    states, other, weight, b = (torch.randn(n, generator=g) for n in ((N, D), (N, D), (V, D), (V,)))
    states, teacher, weight, b = (x.to(DEVICE, dtype) for x in (states, 0.7 * states + 0.3 * other, 0.5 * weight, b))
    head = Head(weight, b if bias else None, scale, softcap)
    return head, states, teacher, torch.randint(V, (N,), generator=g).to(DEVICE)


def plain(figure, head, states, targets, teacher, omit=None):
    q, p = head.logits(states), head.logits(teacher)
    if figure == "log_prob":
        return torch.log_softmax(q, -1).gather(1, targets[:, None]).squeeze(1)
    if omit is not None:
        hidden = torch.zeros_like(q, dtype=torch.bool)
        hidden[omit] = True
        q, p = q.masked_fill(hidden, -1e4), p.masked_fill(hidden, -1e4)
    extra = (EXPONENT,) if figure == "tempered_total_variation" else ()
    return getattr(divergences, figure)(q, p, *extra)


def check(figure, head, states, teacher, targets, omit=None, *, library):
    teacher_states = None if figure == "log_prob" else teacher
    found = triton_head.figures(
        figure, head, states, targets, teacher_states, omit, EXPONENT, wanted=True, tiling=TILING, library=library
    )
    wide = Head(head.weight.double(), None if head.bias is None else head.bias.double(), head.scale, head.softcap)
    x = states.double().requires_grad_()
    expected = plain(figure, wide, x, targets, teacher.double(), omit)
    (slope,) = torch.autograd.grad(expected.sum(), x)
    assert found.values.dtype == torch.float32
    assert torch.allclose(found.values.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.allclose(found.log_probs.double(), plain("log_prob", wide, x, targets, teacher.double()), atol=1e-5)
    assert found.gradient.dtype == states.dtype
    assert (found.gradient - slope).norm() / slope.norm() < GRADIENT_WITHIN[states.dtype]


@pytest.mark.parametrize("library", [False, True], ids=["in_kernel", "library"])
@pytest.mark.parametrize("dtype", GRADIENT_WITHIN, ids=str)
@pytest.mark.parametrize("figure", ["log_prob", *DIVERGENCES])
def test_values_and_gradients_are_those_of_the_plain_form(figure, dtype, library):
    check(figure, *given(dtype), library=library)


@pytest.mark.parametrize("library", [False, True], ids=["in_kernel", "library"])
@pytest.mark.parametrize("figure", ["log_prob", *DIVERGENCES])
def test_bias_scale_bound_and_omitted_tokens(figure, library, monkeypatch):
    monkeypatch.setattr(triton_head, "LOGITS", 16 * V)
    monkeypatch.setattr(triton_head, "SLOPES", 16 * V)  # two chunks of rows
    monkeypatch.setattr(triton_head, "PROGRAMS", 1)  # one stretch of the vocabulary: the online normaliser goes on
    omit = None if figure == "log_prob" else tuple(torch.tensor(x, device=DEVICE) for x in OMIT)
    check(figure, *given(torch.float32, bias=True, scale=0.3, softcap=2.0), omit, library=library)


@pytest.mark.parametrize(("dtype", "products"), [(torch.float32, 2), (torch.bfloat16, 0), (torch.float16, 0)], ids=str)
def test_the_type_decides_who_makes_the_products(dtype, products, monkeypatch):
    made, product = [], triton_head._product
    monkeypatch.setattr(triton_head, "_product", lambda *a: made.append(a) or product(*a))
    head, states, teacher, targets = given(dtype)
    figures = partial(triton_head.figures, "forward_kl", head, states, targets, teacher, None, 1.0, wanted=True, tiling=TILING)
    found = figures()
    assert len(made) == products  # the student's and the teacher's, or none
    expected = figures(library=not products)
    assert torch.allclose(found.values, expected.values, atol=1e-5)
    assert (found.gradient - expected.gradient).norm() / expected.gradient.norm() < GRADIENT_WITHIN[dtype]


def test_large_logits_stay_finite():
    head, states, teacher, targets = given(torch.float32, scale=1e3)
    for figure in ("jensen_shannon", "reverse_kl"):
        found = triton_head.figures(figure, head, states, targets, teacher, None, 1.0, wanted=True)
        assert torch.isfinite(found.values).all()
        assert torch.isfinite(found.gradient).all()


@pytest.mark.parametrize(("dtype", "tiling"), [(torch.float32, "KEPT"), (torch.bfloat16, "HALF")], ids=str)
def test_token_figures_takes_the_kernels_where_they_are_supported(dtype, tiling, monkeypatch):
    head, states, teacher, targets = given(dtype)
    wide = Head(head.weight.double())
    x = states.double().requires_grad_()
    weights = torch.linspace(-1, 2, N, dtype=torch.float64, device=DEVICE)
    (expected,) = torch.autograd.grad((plain("total_variation", wide, x, targets, teacher.double()) * weights).sum(), x)
    asked = []
    monkeypatch.setattr(triton_head, "supported", lambda *a: asked.append(a) or True)
    monkeypatch.setattr(triton_head, tiling, TILING)
    y = states.clone().requires_grad_()
    found = token_figures("total_variation", head, y, targets, teacher)
    (found.values * weights).sum().backward()
    assert asked
    assert not found.log_probs.requires_grad
    assert (y.grad - expected).norm() / expected.norm() < GRADIENT_WITHIN[dtype]
    with torch.no_grad():
        assert not token_figures("total_variation", head, y, targets, teacher).values.requires_grad
    assert token_figures("forward_kl", head, y[:0], targets[:0], teacher[:0]).values.shape == (0,)


def test_where_the_kernels_are_not_for():
    head, states, teacher, _ = given(torch.float32)
    assert triton_head.supported(head, states, teacher) is (DEVICE == "cuda")
    wide = torch.cat([states, states[:, :1]], 1)
    assert not triton_head.supported(head, wide, teacher)
    assert not triton_head.supported(head, states.double(), teacher.double())
    assert not triton_head.supported(head, states.half(), teacher.half())
