"""A variant, and what is measured of it: figures with 95 % intervals on every set, and latency of single pairs on one thread."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks.guard_variants.pairs import NEUTRAL
from softguard.errors import DataError
from softguard.evaluation.statistics import Estimate, auc_estimate, share
from softguard.guards.measuring import LabelledPair, figures

TIMED = 40
Scorer = Callable[[Sequence[LabelledPair]], NDArray[np.float64]]
"""Returns p_unsafe of each pair, NaN where it was not graded."""


@dataclass(frozen=True)
class Variant:
    """What is measured.

    Attributes:
        score: of all pairs of a set; may keep what it computes.
        one: of a single pair, computed anew: what is timed.
        parameters: that a verdict takes beside the base model, which is there anyway; None where a package does not tell.
        megabytes: on disk (10^6 bytes), beside the base model.
        facts: what else there is to say, such as `trained_on`.
        seen: the beginning of the names of sets that it was trained on, which are left out.
    """

    score: Scorer
    one: Callable[[LabelledPair], object]
    parameters: int | None
    megabytes: float
    facts: Mapping[str, Any]
    seen: tuple[str, ...] = ()


def measure(variant: Variant, sets: Mapping[str, Sequence[LabelledPair]]) -> dict[str, Any]:
    """Return a variant's figures, latency and size.

    Raises:
        DataError: it graded no pair of a set.
    """
    by_set = {name: _on(variant.score(pairs), pairs) for name, pairs in sets.items() if not _seen(name, variant)}
    size = {"parameters": variant.parameters, "megabytes": round(variant.megabytes, 2)}
    timed = next(iter(sets.values()))[:TIMED]
    return {"figures": by_set, "latency_ms_one_thread": _latency(variant, timed), **size, **variant.facts}


def _seen(name: str, variant: Variant) -> bool:
    return any(seen in name for seen in variant.seen)


def _on(p: NDArray[np.float64], pairs: Sequence[LabelledPair]) -> dict[str, Any]:
    """Return the figures of one set; None where they are not defined. Pairs of one prompt are one family."""
    labels = np.array([x.unsafe for x in pairs], dtype=np.int64)
    graded = ~np.isnan(p)
    if not graded.any():
        raise DataError("at least one graded pair", f"none of {len(pairs)}", "look at the variant's scores")
    found: dict[str, Any] = {"pairs": len(pairs), "unsafe": int(labels.sum()), "ungraded": int((~graded).sum())}
    found |= {k: None if v != v else round(v, 4) for k, v in figures(p[graded], labels[graded]).items()}
    families = np.array([x.response if x.prompt == NEUTRAL else x.prompt for x in pairs], dtype=object)
    safe, unsafe = graded & (labels == 0), graded & (labels == 1)
    if not unsafe.any():
        found["f1"] = None
    if safe.any() and unsafe.any():
        ranked = auc_estimate(p[unsafe], p[safe], 0, families[unsafe].tolist(), families[safe].tolist())
        found["auc_interval"] = _ends(ranked)
    if safe.any():
        found["false_positive_rate_interval"] = _ends(share((p[safe] > 0.5).astype(float), families[safe].tolist()))
    return found


def _ends(estimate: Estimate) -> list[float]:
    return [round(estimate.interval.low, 4), round(estimate.interval.high, 4)]


def _latency(variant: Variant, pairs: Sequence[LabelledPair]) -> dict[str, float]:
    times = []
    with one_thread():
        variant.one(pairs[0])
        for pair in pairs:
            start = time.perf_counter()
            variant.one(pair)
            times.append(1000 * (time.perf_counter() - start))
    return {"median": round(float(np.median(times)), 2), "p90": round(float(np.quantile(times, 0.9)), 2)}


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep PyTorch, OpenMP and BLAS to one thread; ONNX Runtime takes its own settings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
