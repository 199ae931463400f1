"""Estimates with their intervals: shares, means, areas under a ROC curve, paired differences.

One idea: a number never travels without its interval and its denominator. NaN means "not scored": such a value is left
out and counted in `Estimate.ungraded`, never taken for 0. All randomness comes from the seed that the caller names.
Imports nothing of ours but `errors`; knows nothing of prompts or systems.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from softguard.errors import DataError

Floats = NDArray[np.float64]
Values = Sequence[float] | Floats
Clusters = Sequence[Hashable] | None

RESAMPLES = 2000
"""Bootstrap resamples: puts the Monte Carlo error of a 95 % end point at some 2 % of the interval's width."""


@dataclass(frozen=True)
class Interval:
    """Both ends of a confidence interval."""

    low: float
    high: float


_SHARE = Interval(0.0, 1.0)


@dataclass(frozen=True)
class Estimate:
    """A value, its 95 % interval, how many scored items it rests on, and how many were not scored (NaN)."""

    value: float
    interval: Interval
    n: int
    ungraded: int = 0


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Return Wilson's score interval of a share.

    With p = successes/n and z the normal quantile: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n). Unlike
    the normal approximation it has a width at 0 and at n successes.

    Raises:
        DataError: n < 1, or successes outside [0, n].

    References:
        Wilson 1927, JASA 22:209; Brown, Cai, DasGupta 2001, Statistical Science 16:101.
    """
    if n < 1 or not 0 <= successes <= n:
        raise DataError("n >= 1 and successes in [0, n]", f"{successes} of {n}", "give at least one scored item")
    z2 = _z2(confidence)
    p = successes / n
    centre, scale = p + z2 / (2 * n), 1 + z2 / n
    half = float(np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n**2))))
    low = 0.0 if successes == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if successes == n else min(1.0, (centre + half) / scale)
    return Interval(low, high)


def share(scores: Values, clusters: Clusters = None, seed: int = 0) -> Estimate:
    """Return the mean of scores of 0 and 1 with Wilson's interval, or the bootstrap's where items are clustered."""
    if clusters is not None:
        return mean(scores, seed, clusters, _SHARE)
    scored, ungraded = _scored(scores)
    return Estimate(float(scored.mean()), wilson_interval(int(scored.sum()), len(scored)), len(scored), ungraded)


def mean(values: Values, seed: int, clusters: Clusters = None, support: Interval | None = None) -> Estimate:
    """Return the mean of the scored values with its percentile bootstrap interval (by cluster where these are given).

    Args:
        support: the ends that the mean can have at all; an interval that collapses is then widened within them.
    """
    array = _array(values)
    keep = ~np.isnan(array)
    scored = _require(array[keep])
    families, k = family_indices(_keep(clusters, keep), len(scored))
    sums = np.bincount(families, weights=scored, minlength=k)
    sizes = np.bincount(families, minlength=k)
    counts = family_counts(np.random.default_rng(seed), k)
    interval = _widen(percentile_interval((counts @ sums) / (counts @ sizes)), support, k)
    return Estimate(float(scored.mean()), interval, len(scored), int((~keep).sum()))


def stochastic_rate(p_draws: Values | Sequence[Values], seed: int, clusters: Clusters = None) -> Estimate:
    """Return the rate of an event that the system itself draws at random, such as the guarded system's refusals.

    Row i holds, for each draft drawn for prompt i, the probability of the event (one number where there is one draft):
    for a refusal, 1 where the draft refuses, else 1 - p_safe. The rate is the mean over prompts of the mean over scored
    drafts: using the probability in place of the coin removes the coin's variance. The bootstrap is over prompts.

    Raises:
        DataError: no scored prompt, or a probability outside [0, 1].
    """
    rows = [np.atleast_1d(np.asarray(row, dtype=np.float64)) for row in p_draws]
    scored = [row[~np.isnan(row)] for row in rows]
    means = np.array([row.mean() if row.size else np.nan for row in scored])
    if ((means < 0) | (means > 1)).any():
        raise DataError("probabilities in [0, 1]", f"{np.nanmin(means)} to {np.nanmax(means)}", "give p, not log p")
    return mean(means, seed, clusters, _SHARE)


def auc(positive: Values, negative: Values) -> float:
    """Return P(a positive scores above a negative), a tie counting 1/2; infinite scores are allowed, NaN left out.

    This is Mann-Whitney's U / (n_pos n_neg) and the area under the ROC curve.

    Raises:
        DataError: a side without a scored value.

    References:
        Mann, Whitney 1947; Hanley, McNeil 1982, Radiology 143:29.
    """
    up, down = _scored(positive)[0], np.sort(_scored(negative)[0])
    return float((np.searchsorted(down, up, "left") + np.searchsorted(down, up, "right")).sum() / (2 * len(up) * len(down)))


def auc_estimate(
    positive: Values,
    negative: Values,
    seed: int,
    positive_clusters: Clusters = None,
    negative_clusters: Clusters = None,
) -> Estimate:
    """Return the AUC with a bootstrap interval, drawn by family where clusters are given.

    A family that has members on both sides (a harmful prompt and its look-alike) is drawn as one; families on both, on
    the positive side only and on the negative side only are drawn within their own stratum, so no side is ever empty.
    """
    pos, neg = _array(positive), _array(negative)
    keep_pos, keep_neg = ~np.isnan(pos), ~np.isnan(neg)
    up, down = _require(pos[keep_pos]), _require(neg[keep_neg])
    labels_up = _labels(_keep(positive_clusters, keep_pos), len(up), "positive")
    labels_down = _labels(_keep(negative_clusters, keep_neg), len(down), "negative")
    order = np.argsort(down, kind="stable")
    down = down[order]
    below, not_above = np.searchsorted(down, up, "left"), np.searchsorted(down, up, "right")
    names = list(dict.fromkeys([*labels_up, *labels_down]))
    place = {name: i for i, name in enumerate(names)}
    family_up = np.array([place[label] for label in labels_up])
    family_down = np.array([place[label] for label in labels_down])[order]
    in_up, in_down = np.isin(np.arange(len(names)), family_up), np.isin(np.arange(len(names)), family_down)
    rng = np.random.default_rng(seed)
    counts = np.zeros((RESAMPLES, len(names)), dtype=np.int64)
    for stratum in (in_up & in_down, in_up & ~in_down, ~in_up & in_down):
        if stratum.any():
            counts[:, stratum] = family_counts(rng, int(stratum.sum()))
    drawn = np.empty(RESAMPLES)
    for i, row in enumerate(counts):
        weight_up, weight_down = row[family_up], row[family_down]
        cumulative = np.concatenate(([0], np.cumsum(weight_down)))
        wins = weight_up @ (cumulative[below] + cumulative[not_above])
        drawn[i] = wins / (2 * weight_up.sum() * cumulative[-1])
    n = len(up) + len(down)
    interval = _widen(percentile_interval(drawn), _SHARE, int(min(in_up.sum(), in_down.sum())))
    return Estimate(auc(up, down), interval, n, len(pos) + len(neg) - n)


def paired_difference(a: Values, b: Values, seed: int, clusters: Clusters = None) -> Estimate:
    """Return the mean of a_i - b_i over the items that both have scored, with its bootstrap interval over items.

    Paired, because two systems on one prompt set share its hard prompts: that variance cancels.

    Raises:
        DataError: lengths that differ, or no item that both have scored.
    """
    first, second = _array(a), _array(b)
    if len(first) != len(second):
        raise DataError("two scores for each item", f"{len(first)} and {len(second)}", "score the same items in one order")
    both = np.concatenate((first, second))
    shares = not bool(((both < 0) | (both > 1)).any())
    return mean(first - second, seed, clusters, Interval(-1.0, 1.0) if shares else None)


def _z2(confidence: float = 0.95) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2) ** 2


def _array(values: Values) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _require(scored: Floats) -> Floats:
    if not len(scored):
        raise DataError("at least one scored item", "none", "check why nothing was scored")
    return scored


def _scored(values: Values) -> tuple[Floats, int]:
    array = _array(values)
    keep = ~np.isnan(array)
    return _require(array[keep]), int((~keep).sum())


def _keep(clusters: Clusters, keep: NDArray[np.bool_]) -> Clusters:
    """Return the labels of the scored items."""
    if clusters is None:
        return None
    if len(clusters) != len(keep):
        raise DataError("one cluster for each item", f"{len(clusters)} for {len(keep)}", "pass a label for each")
    return [label for label, kept in zip(clusters, keep.tolist(), strict=True) if kept]


def _labels(clusters: Clusters, n: int, side: str) -> list[Hashable]:
    return list(clusters) if clusters is not None else [(side, i) for i in range(n)]


def family_indices(clusters: Clusters, n: int) -> tuple[NDArray[np.int64], int]:
    """Return the family's index of each item, and the number of families; without clusters each item is its own."""
    if clusters is None:
        return np.arange(n), n
    place = {label: i for i, label in enumerate(dict.fromkeys(clusters))}
    return np.array([place[label] for label in clusters], dtype=np.int64), len(place)


def family_counts(rng: np.random.Generator, k: int, resamples: int = RESAMPLES) -> NDArray[np.int64]:
    """Return how often each of k families is drawn in each resample: whole families, since items of one are not independent.

    References:
        Efron, Tibshirani 1993, chapter 13; Davison, Hinkley 1997, section 3.8 (clusters).
    """
    return rng.multinomial(k, np.full(k, 1 / k), size=resamples)


def percentile_interval(drawn: Floats, confidence: float = 0.95) -> Interval:
    """Return the middle `confidence` of what resamples gave."""
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def _widen(interval: Interval, support: Interval | None, k: int) -> Interval:
    """Return the interval; where the bootstrap has collapsed to a point, widened by z^2/(k+z^2) within `support`.

    Resampling cannot see what it has not seen: 50 of 50 gives [1, 1]. The half-width is what Wilson's interval has at 0
    and at k of k, and Tango's at no discordant pair, so it fits shares, AUCs and differences of shares.

    References:
        Tango 1998, Statistics in Medicine 17:891.
    """
    if support is None or interval.low != interval.high:
        return interval
    half = _z2() / (k + _z2())
    return Interval(max(support.low, interval.low - half), min(support.high, interval.high + half))
