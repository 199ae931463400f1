"""The estimators on a toy vocabulary: a Markov chain whose every sequence can be listed, so that the truth is known."""

import itertools
import math

import numpy as np
import pytest

from softguard.errors import DataError
from softguard.evaluation.divergence import (
    Drafts,
    bounded_mean,
    decision_gap,
    sequence_total_variation,
    token_total_variation,
    upper_limit,
)

V, T = 4, 3
REFUSAL = (3, 2, 2)


class Chain:
    """Sequences of T tokens: the first from `start`, the others from the row of the one before."""

    def __init__(self, seed: int, refusal: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        self.start, self.rows = rng.dirichlet(np.ones(V)), rng.dirichlet(np.ones(V), V)
        if refusal:  # as a student that has learned to refuse
            self.start = (1 - refusal) * self.start + refusal * np.eye(V)[REFUSAL[0]]
            self.rows[3], self.rows[2] = 0.1 / V + 0.9 * np.eye(V)[2], 0.1 / V + 0.9 * np.eye(V)[2]

    def next(self, prefix: tuple[int, ...]) -> np.ndarray:
        return self.rows[prefix[-1]] if prefix else self.start

    def prob(self, y: tuple[int, ...]) -> float:
        return math.prod(float(self.next(y[:t])[y[t]]) for t in range(T))

    def draw(self, rng: np.random.Generator, k: int) -> list[tuple[int, ...]]:
        every = list(itertools.product(range(V), repeat=T))
        picked = rng.choice(len(every), k, p=[self.prob(y) for y in every])
        return [every[i] for i in picked]


P, Q = Chain(1), Chain(2, refusal=0.4)


def alpha(y: tuple[int, ...]) -> float:
    return 0.05 if y[1] == 0 else 0.9 - 0.1 * y[2]


def teacher(y: tuple[int, ...]) -> float:
    """The guarded system's probability of saying y, by its definition (eq. 1-2)."""
    withheld = sum(P.prob(z) * (1 - alpha(z)) for z in itertools.product(range(V), repeat=T))
    return P.prob(y) * alpha(y) + (withheld if y == REFUSAL else 0.0)


def truth() -> float:
    return 1 - sum(min(teacher(y), Q.prob(y)) for y in itertools.product(range(V), repeat=T))


def drafts(ys: list[tuple[int, ...]], q: Chain = Q) -> Drafts:
    ratio = np.array([math.log(q.prob(y)) - math.log(P.prob(y)) for y in ys])
    return Drafts(np.array([alpha(y) for y in ys]), ratio, [y == REFUSAL for y in ys], math.log(q.prob(REFUSAL)))


def test_the_chain_says_the_refusal_itself_now_and_then() -> None:
    assert P.prob(REFUSAL) > 1e-4  # else the rule for it would not be tested
    assert sum(teacher(y) for y in itertools.product(range(V), repeat=T)) == pytest.approx(1)


def test_the_sequence_estimate_is_the_truth_on_many_draws() -> None:
    found = sequence_total_variation(drafts(P.draw(np.random.default_rng(0), 100_000)))
    assert 0.2 < truth() < 0.9
    assert found == pytest.approx(truth(), abs=0.006)


def test_few_draws_err_upwards() -> None:
    rng = np.random.default_rng(1)
    found = np.array([sequence_total_variation(drafts(P.draw(rng, 8))) for _ in range(2000)])
    error = found.std() / math.sqrt(len(found))
    assert found.mean() > truth() - 3 * error
    assert found.mean() < truth() + 0.1
    assert ((found >= 0) & (found <= 1)).all()


def test_the_bound_of_eq_3_is_no_estimate_of_it() -> None:
    """As printed it is near 1 for long answers, however good the student (objective notes): so it is not what we report."""
    rng = np.random.default_rng(2)
    long = Drafts(np.full(64, 1.0), rng.normal(0, 0.05, 64), [False] * 64, -40.0)
    assert sequence_total_variation(long) < 0.05


def test_a_perfect_student_has_no_divergence_and_the_base_has_the_refusals() -> None:
    k = 16
    same = Drafts(np.full(k, 1.0), np.zeros(k), [False] * k, -30.0)
    assert sequence_total_variation(same) == pytest.approx(0, abs=1e-9)
    perfect = Drafts(np.full(k, 0.3), np.full(k, math.log(0.3)), [False] * k, math.log(0.7))
    assert sequence_total_variation(perfect) == pytest.approx(0)
    base = Drafts(np.full(k, 0.3), np.zeros(k), [False] * k, -math.inf)
    assert sequence_total_variation(base) == pytest.approx(0.7)
    far = Drafts(np.full(k, 1.0), np.full(k, -math.inf), [False] * k, 0.0)
    assert sequence_total_variation(far) == 1
    assert sequence_total_variation(Drafts(np.full(k, 0.5), np.full(k, 1e4), [False] * k, -1.0)) <= 0.5


def test_too_few_drafts_are_refused() -> None:
    with pytest.raises(DataError, match="at least 8"):
        sequence_total_variation(drafts(P.draw(np.random.default_rng(0), 7)))
    with pytest.raises(DataError):
        sequence_total_variation(Drafts(np.ones(8), np.zeros(9), [False] * 8, 0.0))


def tv(p: np.ndarray, q: np.ndarray) -> float:
    return float(np.abs(p - q).sum() / 2)


def test_token_variation_is_the_truth_where_alpha_does_not_depend_on_the_answer() -> None:
    a = 0.7

    def says(y: tuple[int, ...]) -> float:
        return a * P.prob(y) + (1 - a) * (y == REFUSAL)

    def following(prefix: tuple[int, ...], answered: bool) -> np.ndarray:
        if not prefix:
            return a * P.start + (1 - a) * np.eye(V)[REFUSAL[0]]
        return P.next(prefix) if answered else np.eye(V)[REFUSAL[len(prefix)]]

    expected = 0.0
    for y in itertools.product(range(V), repeat=T):
        for answered, weight in ((True, a * P.prob(y)), (False, (1 - a) * (y == REFUSAL))):
            expected += weight * np.mean([tv(following(y[:t], answered), Q.next(y[:t])) for t in range(T)])
    assert sum(says(y) for y in itertools.product(range(V), repeat=T)) == pytest.approx(1)
    ys = P.draw(np.random.default_rng(3), 20_000)
    first = tv(a * P.start + (1 - a) * np.eye(V)[REFUSAL[0]], Q.start)
    answers = [[tv(P.next(y[:t]), Q.next(y[:t])) for t in (1, 2)] for y in ys]
    refusal = [1 - float(Q.next(REFUSAL[:t])[REFUSAL[t]]) for t in (1, 2)]
    assert token_total_variation([a] * len(ys), first, answers, refusal) == pytest.approx(expected, abs=0.005)
    with pytest.raises(DataError):
        token_total_variation([a], first, [], refusal)


def test_refusal_rates_differ_by_no_more_than_the_decision_divergence() -> None:
    rng = np.random.default_rng(0)
    rho, pi = rng.random(200), rng.random(200)
    gaps = [decision_gap(r, p) for r, p in zip(rho, pi, strict=True)]
    assert abs(rho.mean() - pi.mean()) <= np.mean(gaps)


def test_few_drafts_make_the_decision_gap_larger_not_smaller() -> None:
    rng = np.random.default_rng(4)
    pi = sum(P.prob(y) * (1 - (0 if y == REFUSAL else alpha(y))) for y in itertools.product(range(V), repeat=T))
    gaps = [decision_gap(pi, drafts(P.draw(rng, 8)).refusal_probability) for _ in range(300)]
    assert np.mean(gaps) > 0  # rho is pi here: the true gap is 0


def test_the_limit_by_hand_and_at_its_ends() -> None:
    values = [0.0, 0.5, 1.0, 0.5] * 25
    log_term = math.log(40)
    width = math.sqrt(2 * np.var(values, ddof=1) * log_term / 100) + 7 * log_term / (3 * 99)
    assert upper_limit(values) == pytest.approx(0.5 + width)
    assert upper_limit([0.1]) == 1
    assert upper_limit([0.3, 0.3]) == 1
    assert upper_limit(values, 0.99) > upper_limit(values, 0.95)
    for bad in ([], [1.2], [math.nan]):
        with pytest.raises(DataError):
            upper_limit(bad)


def test_the_limit_covers() -> None:
    exceeded = 0
    for trial in range(300):
        values = np.random.default_rng(trial).beta(0.3, 2.0, 150)
        exceeded += upper_limit(values) < 0.3 / 2.3
    assert exceeded <= 15


def test_families_are_what_the_limit_counts() -> None:
    values = np.repeat(np.random.default_rng(0).random(20), 10)
    apart, together = bounded_mean(values, 0), bounded_mean(values, 0, np.repeat(np.arange(20), 10).tolist())
    assert together.upper_limit > apart.upper_limit
    assert together.estimate.value == pytest.approx(apart.estimate.value)
    assert apart.upper_limit > apart.estimate.interval.high
    scored = bounded_mean([*values, math.nan], 0)
    assert (scored.estimate.ungraded, scored.upper_limit) == (1, apart.upper_limit)
