"""One suite over every objective of the registry: a new one is tested by being registered."""

import dataclasses
import inspect

import pytest
import torch

from softguard.core.head import Head
from softguard.objectives import OBJECTIVES, Branch, ObjectiveInput, Samples, divergences
from softguard.registry import config_class

V, D, T_Y, T_R, T_X = 7, 5, 4, 3, 3
REFUSAL = (2, 4, 1)
NAMES = sorted(OBJECTIVES)
ALPHAS = {"soft": [0.3, 0.9, 0.5], "exact": [0.0, 1.0, 0.0], "all kept": [1.0, 1.0, 1.0], "all refused": [0.0, 0.0, 0.0]}
STUDENTS = ("answer", "refusal", "text")


def objective(name: str):
    factory = OBJECTIVES.get(name)
    return factory(config_class(factory)(kind=name))


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


HEAD = Head(random(99, V, D))


def states(rows: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return what the student says: final states along each branch, those of one prompt's first position alike."""
    made = {name: random(seed + k, rows * t, D) for k, (name, t) in enumerate(zip(STUDENTS, (T_Y, T_R, T_X), strict=True))}
    made["refusal"][::T_R] = made["answer"][::T_Y]
    return made


def batch(alpha: list[float], student: dict[str, torch.Tensor]) -> ObjectiveInput:
    rows, weights = len(alpha), torch.tensor(alpha, dtype=torch.float64)

    def branch(name: str, length: int, targets: torch.Tensor, teacher: torch.Tensor | None = None) -> Branch:
        row, position = torch.arange(rows).repeat_interleave(length), torch.arange(length).repeat(rows)
        return Branch(HEAD, student[name], targets, row, position, teacher)

    def drawn(seed: int, count: int) -> torch.Tensor:
        return torch.randint(V, (count,), generator=torch.Generator().manual_seed(seed))

    base = random(50, rows * T_Y, D)
    answer = branch("answer", T_Y, drawn(1, rows * T_Y), base)
    old = Branch(HEAD, random(54, rows * T_Y, D), answer.targets, answer.row, answer.position).log_probs()
    return ObjectiveInput(
        alpha=weights,
        answer=answer,
        refusal=branch("refusal", T_R, torch.tensor(REFUSAL).repeat(rows)),
        first_logits=HEAD.logits(student["answer"][::T_Y]),
        first_teacher_logits=HEAD.logits(base[::T_Y]),
        refusal_token=REFUSAL[0],
        base_answer_log_prob=-random(51, rows).abs() * 5,
        base_refusal_log_prob=-random(52, rows).abs() * 5,
        text=branch("text", T_X, drawn(2, rows * T_X)),
        samples=Samples(
            reward=weights,
            past_rewards=torch.tensor([0.2, 0.4], dtype=torch.float64),
            old_log_probs=old,
            values=student["answer"].sum(1),
            old_values=random(53, rows * T_Y),
        ),
    )


def loss(name: str, alpha: list[float], student: dict[str, torch.Tensor]) -> torch.Tensor:
    return objective(name)(batch(alpha, student)).loss


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is_and_what_it_needs(name):
    made = objective(name)
    assert made.needs
    assert made.branch_floor < 0.5
    assert made.answer_tokens >= 0
    assert "on_policy" not in made.needs or made.sampling.max_new_tokens > 0
    factory = OBJECTIVES.get(name)
    module = inspect.getmodule(config_class(factory))
    assert "References:" in module.__doc__  # a paper and an equation, or that it is ours and where it is derived
    settings = [f for key, f in config_class(factory).model_fields.items() if key != "kind"]
    assert all(f.description for f in settings)


@pytest.mark.parametrize("alpha", ALPHAS.values(), ids=ALPHAS)
@pytest.mark.parametrize("name", NAMES)
def test_a_scalar_with_finite_gradients_and_plain_figures(name, alpha):
    student = {k: v.requires_grad_() for k, v in states(3).items()}
    output = objective(name)(batch(alpha, student))
    assert output.loss.shape == ()
    output.loss.backward()
    gradients = [s.grad for s in student.values() if s.grad is not None]
    assert torch.isfinite(output.loss)
    assert gradients
    assert all(torch.isfinite(g).all() for g in gradients)
    assert any(g.abs().sum() > 0 for g in gradients)
    assert all(type(v) is float and v == v for v in output.metrics.values())


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name):
    given = {k: v.requires_grad_() for k, v in states(3, seed=7).items()}
    used = [
        k for k in STUDENTS if torch.autograd.grad(loss(name, ALPHAS["soft"], given), given[k], allow_unused=True)[0] is not None
    ]

    def of(*values: torch.Tensor) -> torch.Tensor:
        return loss(name, ALPHAS["soft"], {**given, **dict(zip(used, values, strict=True))})

    assert torch.autograd.gradcheck(of, tuple(given[k] for k in used), fast_mode=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_batch_gives_the_same_loss_in_any_order_of_rows(name):
    """Rows do not speak to each other, but for means over the batch, which know no order."""
    student, order = states(3), torch.tensor([2, 0, 1])
    whole = batch(ALPHAS["soft"], student)

    def shuffled(branch: Branch) -> Branch:
        index = torch.cat([(branch.row == i).nonzero().squeeze(1) for i in order])
        where = torch.empty(3, dtype=torch.long)
        where[order] = torch.arange(3)
        teacher = None if branch.teacher_states is None else branch.teacher_states[index]
        return Branch(
            HEAD, branch.states[index], branch.targets[index], where[branch.row[index]], branch.position[index], teacher
        )

    tokens = torch.cat([(whole.answer.row == i).nonzero().squeeze(1) for i in order])
    samples = whole.samples
    other = dataclasses.replace(
        whole,
        **{k: getattr(whole, k)[order] for k in ("alpha", "first_logits", "first_teacher_logits")},
        **{k: getattr(whole, k)[order] for k in ("base_answer_log_prob", "base_refusal_log_prob")},
        **{k: shuffled(getattr(whole, k)) for k in ("answer", "refusal", "text")},
        samples=dataclasses.replace(
            samples,
            reward=samples.reward[order],
            **{k: getattr(samples, k)[tokens] for k in ("old_log_probs", "values", "old_values")},
        ),
    )
    made = objective(name)
    assert made(other).loss.item() == pytest.approx(made(whole).loss.item(), abs=1e-9)
    assert made(whole).loss.item() == made(whole).loss.item()


@pytest.mark.parametrize("name", [n for n in NAMES if objective(n).branch_floor >= 0 and "sequence" in objective(n).needs])
def test_a_branch_of_weight_0_plays_no_part_whatever_it_holds(name):
    """alpha in {0, 1} is exact: the absent branch may be missing, and NaN in it must not leak."""
    alpha = ALPHAS["exact"]
    clean = batch(alpha, states(3))

    def without(branch: Branch, rows: list[int]) -> Branch:
        keep = torch.tensor([int(r) not in rows for r in branch.row])
        teacher = None if branch.teacher_states is None else branch.teacher_states[keep]
        return Branch(HEAD, branch.states[keep], branch.targets[keep], branch.row[keep], branch.position[keep], teacher)

    def spoilt(branch: Branch, rows: list[int]) -> Branch:
        where = torch.tensor([int(r) in rows for r in branch.row]) & (branch.position > 0)
        return dataclasses.replace(branch, states=branch.states.masked_fill(where[:, None], torch.nan))

    made = objective(name)
    expected = made(clean).loss.item()
    kept, refused = [1], [0, 2]
    for change in (without, spoilt):
        given = dataclasses.replace(clean, answer=change(clean.answer, refused), refusal=change(clean.refusal, kept))
        assert made(given).loss.item() == pytest.approx(expected, abs=1e-12)


def test_shapes_are_checked_while_testing():
    good = batch(ALPHAS["soft"], states(3))
    with pytest.raises(Exception, match="rows"):
        dataclasses.replace(good, first_logits=good.first_logits[:2])
    with pytest.raises(Exception, match="tokens"):
        dataclasses.replace(good.answer, targets=good.answer.targets[:5])
    with pytest.raises(Exception, match="tokens"):
        divergences.forward_kl(random(0, 3, V), random(1, 3, V + 1))


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_within_a_bound_of_float64(name):
    single = {k: v.float() for k, v in states(3).items()}
    wide = loss(name, ALPHAS["soft"], {k: v.double() for k, v in single.items()}).item()
    b = batch(ALPHAS["soft"], {k: v.double() for k, v in single.items()})

    def narrow(value):
        if isinstance(value, torch.Tensor):
            return value.float() if value.is_floating_point() else value
        if isinstance(value, Head):
            return Head(value.weight.float())
        if isinstance(value, (Branch, Samples)):
            fields = [f.name for f in dataclasses.fields(value) if f.init]
            return type(value)(**{f: narrow(getattr(value, f)) for f in fields})
        return value

    low = ObjectiveInput(**{f.name: narrow(getattr(b, f.name)) for f in dataclasses.fields(b)})
    assert objective(name)(low).loss.item() == pytest.approx(wide, rel=1e-4, abs=1e-5)
