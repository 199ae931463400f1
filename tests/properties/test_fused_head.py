"""The fused head against the plain divergences: values, gradients, chunks, omitted tokens, bounded logits."""

import pytest
import torch

from softguard.core.head import Head
from softguard.errors import CompatibilityError, DataError
from softguard.objectives import divergences, fused_head
from softguard.objectives.fused_head import token_figures

N, D, V = 11, 5, 13
DIVERGENCES = ["total_variation", "forward_kl", "reverse_kl", "jensen_shannon", "tempered_total_variation"]
EXPONENT = 0.4


def given(dtype: torch.dtype = torch.float64, softcap: float | None = None, bias: bool = False, scale: float = 1.0):
    g = torch.Generator().manual_seed(0)
    states, teacher, weight, b = (torch.randn(n, generator=g, dtype=torch.float64) for n in ((N, D), (N, D), (V, D), (V,)))
    head = Head(weight.to(dtype), b.to(dtype) if bias else None, scale, softcap)
    return head, states.to(dtype).requires_grad_(), teacher.to(dtype), torch.randint(V, (N,), generator=g)


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


@pytest.fixture(params=[1, 4 * V, 2**21], ids=["a row a chunk", "four rows", "one chunk"])
def chunks(request, monkeypatch):
    monkeypatch.setattr(fused_head, "CHUNK_BYTES", 8 * request.param)
    monkeypatch.setattr(fused_head, "PART_LOGITS", request.param // 2)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize(("bias", "scale"), [(False, 1.0), (True, 0.3)])
@pytest.mark.parametrize("figure", ["log_prob", *DIVERGENCES])
def test_values_and_gradients_are_those_of_the_plain_form(figure, softcap, bias, scale, chunks):
    head, states, teacher, targets = given(softcap=softcap, bias=bias, scale=scale)
    teacher_states = None if figure == "log_prob" else teacher
    found = token_figures(figure, head, states, targets, teacher_states, None, EXPONENT)
    expected = plain(figure, head, states, targets, teacher)
    assert torch.allclose(found.values, expected, atol=1e-12)
    weights = torch.linspace(-1, 2, N, dtype=torch.float64)
    ours, theirs = (torch.autograd.grad((x * weights).sum(), states)[0] for x in (found.values, expected))
    assert torch.allclose(ours, theirs, atol=1e-12)
    assert torch.allclose(found.log_probs, plain("log_prob", head, states, targets, teacher))
    assert not found.log_probs.requires_grad


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("figure", ["log_prob", *DIVERGENCES])
def test_a_token_that_the_head_has_no_row_for_is_one_of_probability_0_to_the_teacher(figure, softcap, chunks):
    head, states, teacher, targets = given(softcap=softcap, scale=0.3)
    states = torch.cat([states.detach(), torch.linspace(-3, 3, N, dtype=torch.float64)[:, None]], 1).requires_grad_()
    targets[::2] = V
    wide = Head(torch.block_diag(head.weight, torch.ones(1, 1)).double(), None, 0.3, softcap)
    q = wide.logits(states)
    p = torch.nn.functional.pad(head.logits(teacher), (0, 1), value=-1e4)
    found = token_figures(figure, head, states, targets, None if figure == "log_prob" else teacher, None, EXPONENT)
    extra = (EXPONENT,) if figure == "tempered_total_variation" else ()
    log_q = torch.log_softmax(q, -1).gather(1, targets[:, None]).squeeze(1)
    expected = log_q if figure == "log_prob" else getattr(divergences, figure)(q, p, *extra)
    assert torch.allclose(found.values, expected, atol=1e-12)
    ours, theirs = (torch.autograd.grad(x.sum(), states, retain_graph=True)[0] for x in (found.values, expected))
    assert torch.allclose(ours, theirs, atol=1e-12)
    assert ours[:, -1].abs().max() > 0
    assert torch.allclose(found.log_probs, log_q)


@pytest.mark.parametrize("figure", ["log_prob", *DIVERGENCES])
def test_gradcheck(figure):
    head, states, teacher, targets = given()
    omit = None if figure == "log_prob" else (torch.arange(0, N, 3), torch.full((4,), 2))
    teacher_states = None if figure == "log_prob" else teacher
    assert torch.autograd.gradcheck(
        lambda x: token_figures(figure, head, x, targets, teacher_states, omit, EXPONENT).values, states
    )


@pytest.mark.parametrize("figure", DIVERGENCES)
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_an_omitted_token_plays_no_part_but_the_likelihood_keeps_it(figure, softcap, chunks):
    head, states, teacher, targets = given(softcap=softcap)
    omit = (torch.tensor([0, 2, 4, 4, 10, 10]), torch.tensor([3, 3, 3, 7, 12, 12]))  # two tokens at one place, one twice
    found = token_figures(figure, head, states, targets, teacher, omit, EXPONENT)
    expected = plain(figure, head, states, targets, teacher, omit)
    assert torch.allclose(found.values, expected, atol=1e-12)
    ours, theirs = (torch.autograd.grad(x.sum(), states)[0] for x in (found.values, expected))
    assert torch.allclose(ours, theirs, atol=1e-12)
    assert torch.allclose(found.log_probs, plain("log_prob", head, states, targets, teacher))


@pytest.mark.parametrize("figure", ["log_prob", *DIVERGENCES])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_half_precision_states_give_float32_figures_and_finite_gradients(figure, scale):
    head, states, teacher, targets = given(torch.bfloat16)
    states = (states.detach() * scale).requires_grad_()
    found = token_figures(figure, head, states, targets, None if figure == "log_prob" else teacher, None, EXPONENT)
    found.values.sum().backward()
    assert found.values.dtype == torch.float32
    assert states.grad.dtype == torch.bfloat16
    assert torch.isfinite(found.values).all()
    assert torch.isfinite(states.grad).all()
    expected = plain(figure, head, states, targets, teacher)
    assert torch.allclose(found.values, expected, rtol=1e-4, atol=1e-4)


def test_no_positions_and_no_graph(monkeypatch):
    head, states, teacher, targets = given()
    assert token_figures("forward_kl", head, states[:0], targets[:0], teacher[:0]).values.shape == (0,)

    def never():
        raise AssertionError("a gradient was taken that nobody asked for")

    whole = fused_head._forward_kl
    monkeypatch.setitem(fused_head._DIVERGENCES, "forward_kl", lambda q, p: (whole(q, p)[0], never))
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            assert not token_figures("forward_kl", head, states, targets, teacher).values.requires_grad


def test_a_second_derivative_is_refused():
    head, states, teacher, targets = given()
    values = token_figures("forward_kl", head, states, targets, teacher).values
    (first,) = torch.autograd.grad(values.square().sum(), states, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_what_goes_together():
    head, states, teacher, targets = given()
    for figure, with_teacher in (("log_prob", teacher), ("forward_kl", None)):
        with pytest.raises(DataError, match="teacher's states"):
            token_figures(figure, head, states, targets, with_teacher)
    with pytest.raises(DataError, match=r"\(11, 5\); found \(10, 5\)"):
        token_figures("forward_kl", head, states, targets, teacher[:10])
    with pytest.raises(CompatibilityError, match="frozen"):
        token_figures("log_prob", Head(head.weight.requires_grad_()), states, targets)
