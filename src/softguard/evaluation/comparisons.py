"""Is one system better than another, on the same prompts: tests that use the pairing, their correction, and their power.

One idea: a difference is tested the way it was measured. Independent prompts with a yes or no each go to McNemar's exact test;
prompts of families, or rates that a system draws, to a sign-flip test over families. Several suites tested at once are corrected
(Holm), and a difference that was not found comes with the smallest one that would have been (`detectable_difference`).
Imports nothing of ours but `errors` and `statistics`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binomtest, permutation_test

from softguard.errors import DataError
from softguard.evaluation.statistics import Clusters, Estimate, Floats, Values, family_indices, paired_difference

FLIPS = 9999
"""Sign flips drawn where not all can be tried: the smallest p-value that this can give is 1/10,000."""
POWER_FOR = 0.05
"""The difference for which `power_sentence` says how many prompts show it."""
MCNEMAR, SIGN_FLIPS = "McNemar, exact", "sign flips"


@dataclass(frozen=True)
class Comparison:
    """A paired difference, the p-value against none, by which test, and the mean of |a - b| (the discordant share)."""

    difference: Estimate
    p_value: float
    test: str
    discordant: float


def compare(a: Values, b: Values, seed: int, clusters: Clusters = None) -> Comparison:
    """Return the mean of a_i - b_i over the items that both have scored, with its bootstrap interval and a two-sided test.

    Scores of 0 and 1 without families: McNemar's exact test, a binomial test of which way the discordant items fall. Else the
    sign of each family's summed difference is flipped (all ways where these are few): under no difference both are as likely.

    Raises:
        DataError: lengths that differ, or no item that both have scored.

    References:
        McNemar 1947, Psychometrika 12:153; Fisher 1935, The Design of Experiments, section 21 (sign flips).
    """
    difference = paired_difference(a, b, seed, clusters)
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    keep = ~np.isnan(first - second)
    gaps = (first - second)[keep]
    labels = None if clusters is None else [c for c, kept in zip(clusters, keep.tolist(), strict=True) if kept]
    discordant = float(np.abs(gaps).mean())
    if labels is None and np.isin(np.concatenate((first[keep], second[keep])), (0.0, 1.0)).all():
        return Comparison(difference, mcnemar(int((gaps > 0).sum()), int((gaps < 0).sum())), MCNEMAR, discordant)
    families, k = family_indices(labels, len(gaps))
    sums = np.zeros(k)
    np.add.at(sums, families, gaps)
    return Comparison(difference, _sign_flip(sums, seed), SIGN_FLIPS, discordant)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return McNemar's exact two-sided p-value from the two counts of discordant items; 1 where there are none."""
    n = only_first + only_second
    return float(binomtest(only_first, n, 0.5).pvalue) if n else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values in the given order: reject where <= 0.05 and at most 5 % of families of tests err at all.

    With p sorted upwards, the i-th of m (from 0) becomes max over j <= i of min(1, (m - j) p_j).

    Raises:
        DataError: a p-value outside [0, 1], or NaN.

    References:
        Holm 1979, Scandinavian Journal of Statistics 6:65.
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise DataError("p-values in [0, 1]", str(p_values)[:60], "leave out what was not tested")
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def prompts_needed(difference: float, discordant: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Return how many independent prompts show a paired difference of shares with this power, two-sided.

    With d the difference and psi the share of prompts on which the two systems part: n = (z_(1-alpha/2) sqrt(psi) +
    z_power sqrt(psi - d^2))^2 / d^2. Where a suite has families, count families: their prompts are not independent.

    Raises:
        DataError: a difference of 0, or one that is larger than the discordant share.

    References:
        Connor 1987, Biometrics 43:207, equation 1.
    """
    d = abs(difference)
    if not 0 < d <= discordant <= 1:
        raise DataError("0 < |difference| <= discordant share <= 1", f"{d} and {discordant}", "choose a difference that can be")
    return math.ceil(_needed(d, discordant, power, alpha))


def detectable_difference(n: int, discordant: float, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """Return the smallest paired difference that n independent prompts show with this power; None where no possible one does.

    The inverse of `prompts_needed` at the same discordant share.
    """
    if n < 1 or not 0 < discordant <= 1 or _needed(discordant, discordant, power, alpha) > n:
        return None
    return float(brentq(lambda d: _needed(d, discordant, power, alpha) - n, 1e-6 * discordant, discordant))


def power_sentence(
    a: Values, b: Values, what: str, subject: str, reference: str, clusters: Clusters = None, unit: str = "prompts"
) -> str:
    """Return in a sentence what difference of two systems' scores the items can show, and how many would show 5 points.

    With families these are counted: their prompts are not independent. Empty where nothing was scored by both.
    """
    gaps = [abs(x - y) for x, y in zip(a, b, strict=True) if x == x and y == y]
    if not gaps:
        return ""
    parted = max(sum(gaps) / len(gaps), 1 / (len(gaps) + 1))  # none seen is not none
    n, counted = (len(gaps), unit) if clusters is None else (len(set(clusters)), "families")
    least = detectable_difference(n, parted)
    seen = f"a difference of {100 * least:.0f} points" if least is not None else "no difference"
    needed = f"; {prompts_needed(POWER_FOR, parted):,} would show 5 points" if parted >= POWER_FOR else ""
    return (
        f"Power, for {what} against the {reference} model, which parts from the {subject} on {100 * parted:.0f} % of {unit}: "
        f"{n} {counted} show {seen} in four of five cases{needed}."
    )


def _needed(d: float, discordant: float, power: float, alpha: float) -> float:
    z_alpha, z_power = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)
    return (z_alpha * math.sqrt(discordant) + z_power * math.sqrt(max(0.0, discordant - d * d))) ** 2 / d**2


def _sign_flip(sums: Floats, seed: int) -> float:
    """Return the two-sided p-value of the families' summed differences under flips of their signs."""
    moved = sums[sums != 0]  # a family without a difference stays the same under a flip
    if not len(moved):
        return 1.0

    def total(x: Floats, y: Floats, axis: int) -> Floats:
        difference: Floats = (x - y).sum(axis=axis)
        return difference

    if len(moved) == 1:
        return 1.0  # both signs are as far from 0
    result = permutation_test(
        (moved, np.zeros_like(moved)),
        total,
        permutation_type="samples",
        vectorized=True,
        n_resamples=FLIPS,
        rng=np.random.default_rng(seed),
    )
    return min(1.0, float(result.pvalue))
