"""Each objective against a plain, slow form of its own, written from its formula: loops over tokens of a toy vocabulary."""

import dataclasses
import math

import pytest
import torch

from softguard.core.head import Head
from softguard.objectives import OBJECTIVES, Branch, ObjectiveInput, Outcomes, Samples
from softguard.objectives import divergences as d
from softguard.registry import config_class

V, S = 5, 2
IDENTITY = Head(torch.eye(V, dtype=torch.float64))
"""States are logits then."""
ALPHA = [0.3, 0.95, 0.0, 1.0]
ANSWERS = [[1, 4, 0], [3, 1], [0, 1, 1], [4]]
REFUSAL = [S, 0, 3]


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclasses.dataclass
class World:
    """Student and base distributions by row: `answer[i][t]`, `base[i][t]` and `refusal[i][t]`, lists of V probabilities."""

    batch: ObjectiveInput
    answer: list
    base: list
    refusal: list


def world(seed: int = 0, base_says_s: bool = True) -> World:
    row = [i for i, y in enumerate(ANSWERS) for _ in y]
    position = [t for y in ANSWERS for t in range(len(y))]
    student, base = random(seed, len(row), V), random(seed + 1, len(row), V)
    if not base_says_s:
        base[:, S] = -1e4
    said = random(seed + 2, len(ANSWERS) * len(REFUSAL), V)
    starts = [k for k, t in enumerate(position) if t == 0]
    said[:: len(REFUSAL)] = student[starts]
    alpha = torch.tensor(ALPHA, dtype=torch.float64)
    answer = Branch(
        IDENTITY, student, torch.tensor([v for y in ANSWERS for v in y]), torch.tensor(row), torch.tensor(position), base
    )
    n = len(ANSWERS)
    refusal = Branch(
        IDENTITY,
        said,
        torch.tensor(REFUSAL * n),
        torch.arange(n).repeat_interleave(len(REFUSAL)),
        torch.arange(len(REFUSAL)).repeat(n),
    )
    batch = ObjectiveInput(alpha, answer, refusal, student[starts], base[starts], S)

    def by_row(logits: torch.Tensor, lengths: list[int]) -> list:
        p = iter(torch.softmax(logits, -1).tolist())
        return [[next(p) for _ in range(length)] for length in lengths]

    lengths = [len(y) for y in ANSWERS]
    return World(batch, by_row(student, lengths), by_row(base, lengths), by_row(said, [len(REFUSAL)] * n))


def made(name: str, **settings: object):
    factory = OBJECTIVES.get(name)
    return factory(config_class(factory)(kind=name, **settings))


def sequence_log_probs(w: World, i: int) -> tuple[float, float]:
    l_y = sum(math.log(w.answer[i][t][token]) for t, token in enumerate(ANSWERS[i]))
    return l_y, sum(math.log(w.refusal[i][t][token]) for t, token in enumerate(REFUSAL))


def divergence(kind: str, p: list[float], q: list[float], k: float = 1.0) -> float:
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    pairs = list(zip(p, q, m, strict=True))
    if kind == "total_variation":
        return sum(abs(a - b) for a, b, _ in pairs) / 2
    if kind == "forward_kl":
        return sum(a * math.log(a / b) for a, b, _ in pairs if a > 0)
    if kind == "reverse_kl":
        return sum(b * math.log(b / a) for a, b, _ in pairs if b > 0)
    if kind == "tempered_total_variation":
        return sum(a * (1 - min(1.0, b / a) ** k) / k for a, b, _ in pairs if a > 0)
    return sum(x * math.log(x / c) for a, b, c in pairs for x in (a, b) if x > 0) / 2


@pytest.mark.parametrize("name", ["tv_disp", "kl_disp", "tv_disp_ratio"])
def test_sequence_objectives(name):
    w = world()
    reference = torch.tensor([-3.0, -1.0, -9.0, -2.5], dtype=torch.float64)
    expected = 0.0
    for i, alpha in enumerate(ALPHA):
        l_y, l_r = sequence_log_probs(w, i)
        if name == "tv_disp_ratio":
            l_y -= reference[i].item()
        for weight, value in ((alpha, l_y), (1 - alpha, l_r)):
            if weight > 0:
                gap = value - math.log(weight)
                expected -= weight * (gap if name == "kl_disp" else min(0.0, gap)) / len(ALPHA)
    batch = dataclasses.replace(w.batch, base_answer_log_prob=reference)
    assert made(name)(batch).loss.item() == pytest.approx(expected, abs=1e-12)


def test_the_ratio_is_0_where_the_student_is_the_teacher_and_bounds_eq_4_from_below():
    """q(y) = alpha p(y) clips the answer at last: eq. 4 itself would go on pushing it."""
    w = world()
    l_y = torch.tensor([sequence_log_probs(w, i)[0] for i in range(4)], dtype=torch.float64)
    batch = dataclasses.replace(w.batch, alpha=torch.ones(4, dtype=torch.float64), base_answer_log_prob=l_y)
    assert made("tv_disp_ratio")(batch).loss.item() == 0.0
    assert made("tv_disp")(batch).loss.item() > 1.0


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("decision", ["divergence", "clipped_log"])
@pytest.mark.parametrize("kind", ["total_variation", "forward_kl", "jensen_shannon", "tempered_total_variation"])
def test_dense_objectives(kind, decision, reduction):
    w, k, expected = world(), 0.4, 0.0
    for i, alpha in enumerate(ALPHA):
        base, student = w.base[i][0], w.answer[i][0]
        target = [alpha * p + (1 - alpha) * (v == S) for v, p in enumerate(base)]
        if decision == "divergence":
            first = divergence(kind, target, student, k)
        else:
            t, rho = target[S], student[S]
            first = -t * min(0.0, math.log(rho / t))
            if t < 1:
                rest = [[x / (1 - p[S]) for v, x in enumerate(p) if v != S] for p in (base, student)]
                first += (1 - t) * (divergence(kind, *rest, k) - min(0.0, math.log((1 - rho) / (1 - t))))
        answer = [divergence(kind, w.base[i][t], w.answer[i][t], k) for t in range(1, len(ANSWERS[i]))]
        refusal = [-math.log(w.refusal[i][t][REFUSAL[t]]) for t in range(1, len(REFUSAL))]
        size = (len(answer) or 1, len(refusal)) if reduction == "mean" else (1, 1)
        expected += (first + alpha * sum(answer) / size[0] + (1 - alpha) * sum(refusal) / size[1]) / len(ALPHA)
    settings = {"exponent": k} if kind == "tempered_total_variation" else {}
    objective = made(kind, decision=decision, reduction=reduction, **settings)
    assert objective(w.batch).loss.item() == pytest.approx(expected, abs=1e-9)


def test_decision_split():
    w, expected, c = world(), [], {"answer_weight": 3.0, "refusal_weight": 0.7, "ranking_weight": 0.5, "margin": 4.0}
    s = []
    for i, alpha in enumerate(ALPHA):
        pi, rho = 1 - alpha, w.answer[i][0][S]
        s.append(math.log(rho / (1 - rho)))
        loss = -(pi * math.log(rho) + (1 - pi) * math.log(1 - rho))
        first = [[x / (1 - p[S]) for v, x in enumerate(p) if v != S] for p in (w.base[i][0], w.answer[i][0])]
        kl = [divergence("forward_kl", *first)]
        kl += [divergence("forward_kl", w.base[i][t], w.answer[i][t]) for t in range(1, len(ANSWERS[i]))]
        nll = [-math.log(w.refusal[i][t][REFUSAL[t]]) for t in range(1, len(REFUSAL))]
        expected.append(loss + 3.0 * (1 - pi) * sum(kl) / len(kl) + 0.7 * pi * sum(nll) / len(nll))
    ranks = []
    logit = [math.log(min(max(1 - a, 1e-6), 1 - 1e-6) / (1 - min(max(1 - a, 1e-6), 1 - 1e-6))) for a in ALPHA]
    for i in range(4):
        for j in range(4):
            if ALPHA[j] - ALPHA[i] > 0.5:
                ranks.append(math.log1p(math.exp(min(4.0, logit[i] - logit[j]) - s[i] + s[j])))
    total = sum(expected) / 4 + 0.5 * sum(ranks) / len(ranks)
    assert made("decision_split", **c)(w.batch).loss.item() == pytest.approx(total, abs=1e-9)


def test_the_decision_split_with_the_weights_of_lengths_is_the_sequence_kl():
    """lambda = T_y, mu = T_r - 1: the forward KL of whole responses up to the entropy of pi, where the base never says S."""
    w = world(base_says_s=False)
    for i, t_y in enumerate(len(y) for y in ANSWERS):
        keep = w.batch.answer.row == i
        pick = w.batch.refusal.row == i
        a, r = w.batch.answer, w.batch.refusal
        zero = torch.zeros(int(keep.sum()), dtype=torch.long)
        one = ObjectiveInput(
            w.batch.alpha[i : i + 1],
            Branch(IDENTITY, a.states[keep], a.targets[keep], zero, a.position[keep], a.teacher_states[keep]),
            Branch(IDENTITY, r.states[pick], r.targets[pick], torch.zeros(3, dtype=torch.long), r.position[pick]),
            w.batch.first_logits[i : i + 1],
            w.batch.first_teacher_logits[i : i + 1],
            S,
        )
        split = made("decision_split", answer_weight=float(t_y), refusal_weight=2.0)(one).loss.item()
        entropy = -sum(p * math.log(p) for p in (ALPHA[i], 1 - ALPHA[i]) if p > 0)
        assert split == pytest.approx(made("forward_kl", reduction="sum")(one).loss.item() + entropy, abs=1e-9)


def test_dpo():
    w = world()
    refs = torch.tensor([[-3.0, -1.0, -9.0, -2.5], [-4.0, -8.0, -2.0, -6.0]], dtype=torch.float64)
    expected = 0.0
    for i, alpha in enumerate(ALPHA):
        l_y, l_r = sequence_log_probs(w, i)
        x = 0.3 * ((l_y - refs[0, i].item()) - (l_r - refs[1, i].item()))
        expected += (alpha * math.log1p(math.exp(-x)) + (1 - alpha) * math.log1p(math.exp(x))) / 4
    batch = dataclasses.replace(w.batch, base_answer_log_prob=refs[0], base_refusal_log_prob=refs[1])
    assert made("dpo", inverse_temperature=0.3)(batch).loss.item() == pytest.approx(expected, abs=1e-12)


def test_perplexity():
    w = world()
    text = w.batch.refusal
    expected = -sum(math.log(w.refusal[i][t][REFUSAL[t]]) for i in range(4) for t in range(3)) / 12
    output = made("perplexity")(dataclasses.replace(w.batch, text=text))
    assert output.loss.item() == pytest.approx(expected, abs=1e-12)
    assert output.metrics["perplexity"] == pytest.approx(math.exp(expected))


REWARD = [0.9, 0.1, 0.4, 1.0]


def test_reinforce():
    w, past, decay = world(), [0.2, 0.5, 0.3], 0.8
    weights = [decay ** (len(past) - 1 - k) for k in range(len(past))]
    baseline = sum(a * b for a, b in zip(weights, past, strict=True)) / sum(weights)
    expected = -sum((r - baseline) * sequence_log_probs(w, i)[0] for i, r in enumerate(REWARD)) / 4
    zeros = torch.zeros(9, dtype=torch.float64)
    samples = Samples(*(torch.tensor(x, dtype=torch.float64) for x in (REWARD, past)), zeros, zeros)
    output = made("reinforce", baseline_decay=decay)(dataclasses.replace(w.batch, samples=samples))
    assert output.loss.item() == pytest.approx(expected, abs=1e-9)
    assert output.metrics["baseline"] == pytest.approx(baseline)


def test_ppo():
    """Advantages by their definition, sum over l of (gamma lambda)^l delta_{t+l}, instead of the recursion."""
    w, beta, gamma, lam, clip = world(), 0.3, 0.9, 0.7, 0.15
    shift, old_values, values = random(8, 9) * 0.3, random(9, 9), random(10, 9)
    log_q = [math.log(w.answer[i][t][token]) for i, y in enumerate(ANSWERS) for t, token in enumerate(y)]
    log_p = [math.log(w.base[i][t][token]) for i, y in enumerate(ANSWERS) for t, token in enumerate(y)]
    old = [a + b for a, b in zip(log_q, shift.tolist(), strict=True)]
    v, advantage, at = old_values.tolist(), [], 0
    for i, y in enumerate(ANSWERS):
        n = len(y)
        reward = [-beta * (old[at + t] - log_p[at + t]) + (REWARD[i] if t == n - 1 else 0.0) for t in range(n)]
        delta = [reward[t] + (gamma * v[at + t + 1] if t + 1 < n else 0.0) - v[at + t] for t in range(n)]
        advantage += [sum((gamma * lam) ** k * delta[t + k] for k in range(n - t)) for t in range(n)]
        at += n
    mean = sum(advantage) / 9
    deviation = math.sqrt(sum((a - mean) ** 2 for a in advantage) / 8)
    policy = 0.0
    for a, new, before in zip(advantage, log_q, old, strict=True):
        ratio, scaled = math.exp(new - before), (a - mean) / (deviation + 1e-8)
        policy -= min(ratio * scaled, min(max(ratio, 1 - clip), 1 + clip) * scaled) / 9
    value = sum((x - b - a) ** 2 for x, b, a in zip(values.tolist(), v, advantage, strict=True)) / 18
    tensor = {"dtype": torch.float64}
    samples = Samples(torch.tensor(REWARD, **tensor), torch.zeros(0, **tensor), values, old_values, torch.tensor(old, **tensor))
    settings = {"reference_kl_weight": beta, "discount": gamma, "gae_lambda": lam, "clip": clip}
    output = made("ppo", **settings)(dataclasses.replace(w.batch, samples=samples))
    assert output.loss.item() == pytest.approx(policy + value, abs=1e-9)


@pytest.mark.parametrize("k", [0.3, 0.6, 1.0])
def test_tempered_total_variation_bridges(k):
    q, p = random(0, 4, 7).requires_grad_(), random(1, 4, 7)
    exponents = {1.0: d.total_variation(q, p)}
    value = d.tempered_total_variation(q, p, k)
    assert torch.allclose(value, exponents.get(k, value))
    log_p, log_q = torch.log_softmax(p, -1), torch.log_softmax(q, -1)
    clipped_kl = (log_p.exp() * (log_p - log_q).clamp(min=0)).sum(-1)
    assert torch.allclose(d.tempered_total_variation(q, p, 1e-6), clipped_kl, atol=1e-5)
    assert (value <= clipped_kl + 1e-12).all()
    assert torch.autograd.gradcheck(lambda x: d.tempered_total_variation(x, p, k), q)
    assert torch.allclose(d.tempered_total_variation(p, p, k), torch.zeros(4, dtype=p.dtype), atol=1e-12)
    point = torch.full((1, 7), -1e4, dtype=torch.float64)
    point[0, 3] = 0.0
    one = random(5, 1, 7).requires_grad_()
    (gradient,) = torch.autograd.grad(d.tempered_total_variation(one, point, k).sum(), one)
    probability = torch.softmax(one, -1)[0, 3].item()
    assert gradient[0, 3].item() == pytest.approx(-(probability**k) * (1 - probability))


@pytest.mark.parametrize("kind", ["total_variation", "forward_kl", "jensen_shannon", "tempered_total_variation"])
def test_the_clipped_decision_lives_where_the_total_variation_is_dead(kind):
    """A harmful prompt, rho near 0: the gradient on the logit of S is -(1 - rho), not -rho (1 - rho)."""
    first = torch.zeros(1, V, dtype=torch.float64)
    first[0, S] = -12.0
    first.requires_grad_()
    empty = Branch(IDENTITY, *(x[:0] for x in (first.detach(), *(torch.zeros(0, dtype=torch.long),) * 3)), first.detach()[:0])
    batch = ObjectiveInput(torch.zeros(1, dtype=torch.float64), empty, empty, first, random(3, 1, V), S)
    made(kind, decision="clipped_log")(batch).loss.backward()
    assert first.grad[0, S].item() == pytest.approx(-1.0, abs=1e-4)
    assert made("total_variation")._decision == "clipped_log"  # what `auto` is


def test_several_outcomes_of_which_one_has_all_the_weight_are_the_one_refusal():
    """A policy that comes to one text is no policy; weight 0 beside it plays no part."""
    w = world()
    r = w.batch.refusal
    twice = Branch(
        IDENTITY,
        torch.cat([r.states, random(6, 12, V)]),
        torch.cat([r.targets, torch.tensor([S, 1, 1] * 4)]),
        torch.cat([r.row, r.row + 4]),
        torch.cat([r.position, r.position]),
    )
    row = torch.arange(4).repeat(2)
    weight = torch.cat([1 - w.batch.alpha, torch.zeros(4, dtype=torch.float64)])
    policy = Outcomes(row, weight, torch.full((8,), S))
    for name in ("tv_disp", "kl_disp", "forward_kl", "total_variation", "decision_split", "tempered_total_variation"):
        several = dataclasses.replace(w.batch, refusal=twice, policy=policy)
        assert made(name)(several).loss.item() == pytest.approx(made(name)(w.batch).loss.item(), abs=1e-12)


def test_two_outcomes_against_their_formula():
    """ "refuse" with .5 and "do not know" with .2 of one prompt, whose first tokens differ."""
    alpha, weights = 0.3, [0.5, 0.2]
    texts = [[S, 0], [4, 1, 3]]
    first, base = random(0, 1, V), random(1, 1, V)
    later = random(2, 3, V)
    states = torch.cat([first, later[:1], first, later[1:]])
    said = Branch(
        IDENTITY,
        states,
        torch.tensor([v for t in texts for v in t]),
        torch.tensor([0, 0, 1, 1, 1]),
        torch.tensor([0, 1, 0, 1, 2]),
    )
    answer = Branch(IDENTITY, first, torch.tensor([1]), torch.tensor([0]), torch.tensor([0]), base)
    policy = Outcomes(torch.tensor([0, 0]), torch.tensor(weights, dtype=torch.float64), torch.tensor([S, 4]))
    batch = ObjectiveInput(torch.tensor([alpha], dtype=torch.float64), answer, said, first, base, S, policy=policy)
    q, p = torch.softmax(first, -1)[0].tolist(), torch.softmax(base, -1)[0].tolist()
    log_q = torch.log_softmax(states, -1).tolist()
    nll = [-log_q[1][0], -(log_q[3][1] + log_q[4][3])]
    # eq. 4 and the KL with a sum over outcomes
    for clip, name in ((True, "tv_disp"), (False, "kl_disp")):
        terms = [(alpha, math.log(q[1])), (0.5, math.log(q[S]) - nll[0]), (0.2, math.log(q[4]) - nll[1])]
        gaps = [(w, x - math.log(w)) for w, x in terms]
        expected = -sum(w * (min(0.0, g) if clip else g) for w, g in gaps)
        assert made(name)(batch).loss.item() == pytest.approx(expected, abs=1e-12)
    # dense: the mixture, then each branch
    target = [alpha * a + 0.5 * (v == S) + 0.2 * (v == 4) for v, a in enumerate(p)]
    expected = divergence("forward_kl", target, q) + 0.5 * nll[0] + 0.2 * nll[1]
    assert made("forward_kl")(batch).loss.item() == pytest.approx(expected, abs=1e-9)
    # the decision split: a cross-entropy against the same mixture over {S, 4, any other}, and the KL without both
    rest = [[x / (1 - r[S] - r[4]) for v, x in enumerate(r) if v not in (S, 4)] for r in (p, q)]
    other = 1 - target[S] - target[4]
    expected = -(target[S] * math.log(q[S]) + target[4] * math.log(q[4]) + other * math.log(1 - q[S] - q[4]))
    expected += 0.3 * (1 - p[S] - p[4]) * divergence("forward_kl", *rest) + 0.2 * (0.5 * nll[0] + 0.2 * nll[1] / 2)
    assert made("decision_split")(batch).loss.item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("alpha", "tokens", "weights", "run_s"),
    [
        (0.9, [1], [0.1], S),  # a rewriting with y's first token
        (0.9, [1], [0.1], 1),  # which is the run's own refusal's, too
        (0.2, [1, S, 4], [0.5, 0.3, 0.0], S),  # the last has no weight: 4 is a token as any other
        (1.0, [4], [0.0], S),  # nothing but y, and the default begins otherwise than the refusal
    ],
)
def test_the_decision_split_of_a_shared_first_token_is_the_sequence_kl(alpha, tokens, weights, run_s):
    """lambda = T_y, mu = T_r - 1 = 1: the dense forward KL up to the entropy of what decides, so that it rests at the teacher."""
    base, states, said = random(0, 2, V), random(1, 2, V), random(2, 2 * len(tokens), V)
    said[::2] = states[0]
    numbers = torch.arange(len(tokens))
    answer = Branch(IDENTITY, states, torch.tensor([1, 3]), torch.zeros(2, dtype=torch.long), torch.arange(2), base)
    targets = torch.tensor([v for token in tokens for v in (token, 0)])
    refusal = Branch(IDENTITY, said, targets, numbers.repeat_interleave(2), torch.arange(2).repeat(len(tokens)))
    policy = Outcomes(torch.zeros_like(numbers), torch.tensor(weights, dtype=torch.float64), torch.tensor(tokens))
    given = torch.tensor([alpha], dtype=torch.float64)
    batch = ObjectiveInput(given, answer, refusal, states[:1], base[:1], run_s, policy=policy)
    p = torch.softmax(base, -1)[0].tolist()
    decide = {t for t, w in zip(tokens, weights, strict=True) if w > 0} or set(tokens)
    t = {v: alpha * p[v] + sum(w for x, w in zip(tokens, weights, strict=True) if x == v) for v in decide}
    entropy = -sum(x * math.log(x) for x in [*t.values(), 1 - sum(t.values())] if x > 0)
    split = made("decision_split", answer_weight=2.0, refusal_weight=1.0)(batch).loss.item()
    assert split == pytest.approx(made("forward_kl", reduction="sum")(batch).loss.item() + entropy, abs=1e-9)
