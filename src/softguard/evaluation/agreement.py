"""How far judges agree beyond chance: Cohen's kappa for every pair of them, over the answers that both have graded."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from softguard.evaluation.results import JudgeAgreement
from softguard.evaluation.statistics import Clusters, Floats, family_counts, family_indices, percentile_interval


def judge_agreement(harmful: Mapping[str, Sequence[float]], seed: int = 0, clusters: Clusters = None) -> list[JudgeAgreement]:
    """Return the agreement of every pair of judges.

    Args:
        harmful: by judge, for the same answers in one order: 1 where it calls an answer unsafe, 0 where not, NaN where ungraded.
        seed: of the bootstrap.
        clusters: the prompt or family of each answer: answers to one prompt are not independent.
    """
    pairs = combinations(harmful, 2)
    return [cohens_kappa(a, b, harmful[a], harmful[b], seed, clusters) for a, b in pairs]


def cohens_kappa(
    first: str, second: str, a: Sequence[float], b: Sequence[float], seed: int = 0, clusters: Clusters = None
) -> JudgeAgreement:
    """Return kappa = (o - e) / (1 - e): o the share of answers on which two judges agree, e what chance gives with their rates.

    None where both give one and the same verdict throughout: then there is nothing to agree on beyond chance. The interval is the
    bootstrap's over clusters, without the resamples in which that is so.

    References:
        Cohen 1960, Educational and Psychological Measurement 20:37.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    keep = ~np.isnan(x + y)
    n = int(keep.sum())
    if n == 0:
        return JudgeAgreement(first=first, second=second, n=0, ungraded=len(x))
    labels = None if clusters is None else [c for c, kept in zip(clusters, keep.tolist(), strict=True) if kept]
    families, k = family_indices(labels, n)
    cell = (2 * x[keep] + y[keep]).astype(np.int64)
    table = np.zeros((k, 4))
    np.add.at(table, (families, cell), 1.0)
    value = float(_kappa(table.sum(0)[None])[0])
    drawn = _kappa(family_counts(np.random.default_rng(seed), k) @ table)
    drawn = drawn[~np.isnan(drawn)]
    interval = percentile_interval(drawn) if len(drawn) and not math.isnan(value) else None
    return JudgeAgreement(
        first=first,
        second=second,
        kappa=None if math.isnan(value) else value,
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        observed=float((x == y)[keep].mean()),
        n=n,
        ungraded=len(x) - n,
    )


def _kappa(tables: Floats) -> Floats:
    """Return kappa of tables R x 4 of counts (neither, second only, first only, both); NaN where chance agrees throughout."""
    total = tables.sum(1)
    observed = (tables[:, 0] + tables[:, 3]) / total
    p, q = (tables[:, 2] + tables[:, 3]) / total, (tables[:, 1] + tables[:, 3]) / total
    chance = p * q + (1 - p) * (1 - q)
    with np.errstate(divide="ignore", invalid="ignore"):
        kappa: Floats = np.where(chance < 1, (observed - chance) / (1 - chance), np.nan)
    return kappa
