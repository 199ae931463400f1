"""Statistics against brute force, known values and an independent library."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from softguard.errors import DataError
from softguard.evaluation.statistics import (
    Estimate,
    Interval,
    auc,
    auc_estimate,
    mean,
    paired_difference,
    share,
    stochastic_rate,
    wilson_interval,
)

NAN = math.nan
scores = st.lists(st.sampled_from([-math.inf, -2.0, -1.0, 0.0, 0.5, 1.0, 3.0, math.inf]), min_size=1, max_size=12)
probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=40)


@given(st.integers(1, 500), st.data())
def test_wilson_is_scipys(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    expected = binomtest(k, n).proportion_ci(0.95, method="wilson")
    found = wilson_interval(k, n)
    assert found.low == pytest.approx(expected.low, abs=1e-9)
    assert found.high == pytest.approx(expected.high, abs=1e-9)
    assert 0 <= found.low <= k / n <= found.high <= 1
    mirrored = wilson_interval(n - k, n)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((found.low, found.high))


def test_wilson_known_value_and_width() -> None:
    assert wilson_interval(81, 263) == Interval(pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert wilson_interval(5, 10, 0.99).high > wilson_interval(5, 10, 0.95).high


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_share(k: int, n: int) -> None:
    with pytest.raises(DataError):
        wilson_interval(k, n)


@given(scores, scores)
def test_auc_is_the_share_of_pairs(positive: list[float], negative: list[float]) -> None:
    pairs = [1.0 if p > q else 0.5 if p == q else 0.0 for p, q in itertools.product(positive, negative)]
    assert auc(positive, negative) == pytest.approx(sum(pairs) / len(pairs))
    assert auc(positive, negative) + auc(negative, positive) == pytest.approx(1)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=30), st.lists(st.floats(-5, 5), min_size=2, max_size=30))
def test_auc_is_sklearns_and_ignores_monotone_maps(positive: list[float], negative: list[float]) -> None:
    labels = [1] * len(positive) + [0] * len(negative)
    assert auc(positive, negative) == pytest.approx(roc_auc_score(labels, positive + negative))
    assert auc([8 * p for p in positive], [8 * q for q in negative]) == pytest.approx(auc(positive, negative))


@settings(max_examples=20, deadline=None)
@given(scores, scores, st.integers(0, 9))
def test_auc_estimate_is_auc_within_its_interval(positive: list[float], negative: list[float], seed: int) -> None:
    estimate = auc_estimate([*positive, NAN], negative, seed)
    assert estimate.value == auc(positive, negative)
    assert 0 <= estimate.interval.low <= estimate.interval.high <= 1
    assert (estimate.n, estimate.ungraded) == (len(positive) + len(negative), 1)
    assert estimate == auc_estimate([*positive, NAN], negative, seed)


def test_auc_interval_agrees_with_plain_resampling() -> None:
    rng = np.random.default_rng(0)
    up, down = rng.normal(1, 1, 80), rng.normal(0, 1, 60)
    drawn = [auc(rng.choice(up, 80), rng.choice(down, 60)) for _ in range(2000)]
    found = auc_estimate(up, down, seed=1).interval
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.012)


def test_auc_clusters_widen_and_shared_families_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(0, 1, 20)
    up, down = np.repeat(base + 0.3, 5), np.repeat(base, 5)
    families = [str(i) for i in range(20) for _ in range(5)]
    free = auc_estimate(up, down, 0).interval
    apart = auc_estimate(up, down, 0, [f"u{f}" for f in families], [f"d{f}" for f in families]).interval
    together = auc_estimate(up, down, 0, families, families).interval
    assert apart.high - apart.low > 1.5 * (free.high - free.low)
    assert together.high - together.low < 0.5 * (apart.high - apart.low)


def test_perfect_separation_keeps_an_interval() -> None:
    estimate = auc_estimate([1.0] * 50, [0.0] * 200, 0)
    assert estimate.value == 1
    assert estimate.interval == Interval(pytest.approx(wilson_interval(50, 50).low), 1.0)


@settings(max_examples=25, deadline=None)
@given(probabilities, st.integers(0, 5))
def test_stochastic_rate_is_the_mean_probability(p: list[float], seed: int) -> None:
    estimate = stochastic_rate([*p, NAN], seed)
    assert estimate.value == pytest.approx(np.mean(p))
    assert 0 <= estimate.interval.low <= estimate.value + 1e-12
    assert estimate.value - 1e-12 <= estimate.interval.high <= 1
    assert estimate.ungraded == 1
    assert estimate == stochastic_rate([*p, NAN], seed)


def test_stochastic_rate_averages_drafts_then_prompts() -> None:
    estimate = stochastic_rate([[1.0, 0.0, NAN], [0.0, 0.0], [NAN]], seed=0)
    assert (estimate.value, estimate.n, estimate.ungraded) == (0.25, 2, 1)
    with pytest.raises(DataError):
        stochastic_rate([0.2, 1.2], seed=0)


def test_stochastic_rate_covers() -> None:
    hits = 0
    for trial in range(60):
        p = np.random.default_rng(trial).beta(1, 3, 60)
        interval = stochastic_rate(p, trial).interval
        hits += interval.low <= 0.25 <= interval.high
    assert hits >= 51


def test_paired_difference_uses_the_pairing() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(200)
    a, b = (hard < 0.5).astype(float), (hard < 0.4).astype(float)
    paired = paired_difference(a, b, 0)
    assert paired.value == pytest.approx(a.mean() - b.mean())
    unpaired = paired_difference(a, rng.permutation(b), 0)
    assert paired.interval.high - paired.interval.low < 0.7 * (unpaired.interval.high - unpaired.interval.low)


def test_paired_difference_counts_items_that_one_has_not_scored() -> None:
    estimate = paired_difference([1, NAN, 1, 0], [0, 1, NAN, 0], seed=0)
    assert (estimate.value, estimate.n, estimate.ungraded) == (0.5, 2, 2)
    with pytest.raises(DataError):
        paired_difference([1], [1, 0], 0)


def test_no_discordant_pair_has_tangos_interval() -> None:
    same = paired_difference([1.0, 0.0] * 50, [1.0, 0.0] * 50, 0)
    z2 = 1.959964**2
    assert same.interval == Interval(pytest.approx(-z2 / (100 + z2)), pytest.approx(z2 / (100 + z2)))


def test_bootstrap_of_the_mean_is_near_the_normal_interval() -> None:
    values = np.random.default_rng(3).normal(5, 2, 400)
    found = mean(values, 0).interval
    half = 1.96 * values.std() / 20
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_bootstrap_draws_whole_clusters() -> None:
    values = np.repeat(np.random.default_rng(0).normal(size=12), 10)
    clusters = np.repeat(np.arange(12), 10).tolist()
    free = mean(values, 0).interval
    clustered = mean([*values, NAN], 0, [*clusters, "x"]).interval
    assert clustered.high - clustered.low > 2 * (free.high - free.low)
    with pytest.raises(DataError):
        mean(values, 0, [1, 2])


def test_share_excludes_and_counts_nan() -> None:
    assert share([1, 0, NAN, 1]) == Estimate(pytest.approx(2 / 3), wilson_interval(2, 3), 3, 1)
    assert share([1, 1, 0, 0], clusters=["a", "a", "b", "b"], seed=0).interval == Interval(0, 1)


@pytest.mark.parametrize(
    "measure",
    [
        lambda: share([]),
        lambda: share([NAN]),
        lambda: mean([], 0),
        lambda: auc([], [1.0]),
        lambda: auc_estimate([1.0], [NAN], 0),
        lambda: paired_difference([NAN], [1.0], 0),
        lambda: stochastic_rate([], 0),
    ],
)
def test_nothing_scored_is_an_error(measure) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError):
        measure()
