"""Figures of methods on the same prompts, resampled together, so that what the prompts have in common cancels in a difference.

A figure is an array: its first entry is of the prompts as they are, the others of bootstrap resamples of their families.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from softguard.evaluation.statistics import family_counts, family_indices, percentile_interval

Floats = NDArray[np.float64]


def drawn(families: Sequence[Hashable], rng: np.random.Generator) -> Floats:
    """Return how often each prompt is drawn, (1 + resamples, prompts): in the first row once, then whole families at a time.

    Prompts that are all of one family count as one each.
    """
    indices, k = family_indices(families if len(set(families)) > 1 else None, len(families))
    return np.vstack([np.ones(len(indices)), family_counts(rng, k)[:, indices]])


def auc(up: Floats, down: Floats, weights_up: Floats, weights_down: Floats) -> Floats:
    """Return the area under the ROC curve, a tie counting one half."""
    wins = (up[:, None] > down) + 0.5 * (up[:, None] == down)
    won: Floats = ((weights_up @ wins) * weights_down).sum(1) / (weights_up.sum(1) * weights_down.sum(1))
    return won


def refused_at(most: float, scores: Floats, limit: Floats, weights: Floats, weights_limit: Floats) -> Floats:
    """Return the share above the threshold that at most the share `most` of the limiting prompts exceeds, in each resample."""
    order = np.argsort(-limit)
    reached = np.cumsum(weights_limit[:, order], axis=1) > most * weights_limit.sum(1, keepdims=True)
    thresholds = limit[order][reached.argmax(1)]
    share: Floats = (weights * (scores > thresholds[:, None])).sum(1) / weights.sum(1)
    return share


def mean_of(values: Floats, weights: Floats) -> Floats:
    """Return the mean of what was measured: NaN is left out."""
    keep = ~np.isnan(values)
    mean: Floats = (weights[:, keep] @ values[keep]) / weights[:, keep].sum(1)
    return mean


def interval_of(resampled: Floats) -> dict[str, float]:
    """Return both ends of the 95 % interval."""
    interval = percentile_interval(resampled)
    return {"low": interval.low, "high": interval.high}
