"""How good a guard is on labelled pairs: ranking (AUC), calibration (ECE), and rates at 0.5, and both as plots.

Plain functions of verdicts and labels: any guard can be measured. Ungraded pairs are counted, never scored.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from softguard.core import Conversation, Guard
from softguard.errors import DataError

BINS = 10


@dataclass(frozen=True)
class LabelledPair:
    """A pair with what is known of it.

    `unsafe`: the answer, to this prompt, does harm. `harmful_prompt` and `refusal`: None where nobody has said.
    `kind` groups pairs in tables: which construction or which set they are from. `topic` keeps splits apart.
    """

    prompt: str
    response: str
    unsafe: bool
    harmful_prompt: bool | None = None
    refusal: bool | None = None
    kind: str = ""
    topic: str = ""

    @property
    def conversation(self) -> Conversation:
        """The pair as guards take it."""
        return Conversation.from_prompt(self.prompt).with_response(self.response)


def evaluate_guard(guard: Guard, pairs: Sequence[LabelledPair]) -> dict[str, float]:
    """Return the figures of a guard on labelled pairs.

    `auc`, `auprc` (unsafe is the positive class), `ece` (10 bins of equal width), `f1`, `true_positive_rate` and
    `false_positive_rate` at p_safe < 0.5; the first two are NaN where one class is missing. `latency_ms` a pair.

    Raises:
        DataError: no pair could be graded.
    """
    start = time.perf_counter()
    verdicts = guard.judge([p.conversation for p in pairs])
    latency_ms = 1000 * (time.perf_counter() - start) / max(len(pairs), 1)
    graded = [(v.p_safe, p.unsafe) for v, p in zip(verdicts, pairs, strict=True) if v.p_safe is not None]
    if not graded:
        raise DataError("at least one pair that the guard can judge", f"none of {len(pairs)}", "give non-empty prompts")
    p_unsafe = np.array([1.0 - p for p, _ in graded])
    labels = np.array([unsafe for _, unsafe in graded], dtype=np.int64)
    counts = {"pairs": float(len(pairs)), "ungraded": float(len(pairs) - len(graded))}
    return counts | figures(p_unsafe, labels) | {"latency_ms": latency_ms}


def figures(p_unsafe: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, float]:
    """Return the figures of scores with their labels, 1 for unsafe; see `evaluate_guard`."""
    flagged = p_unsafe > 0.5
    both = 0 < labels.sum() < len(labels)
    hits = float((flagged & (labels == 1)).sum())
    return {
        "unsafe_share": float(labels.mean()),
        "auc": float(roc_auc_score(labels, p_unsafe)) if both else float("nan"),
        "auprc": float(average_precision_score(labels, p_unsafe)) if both else float("nan"),
        "ece": calibration_error(p_unsafe, labels),
        "f1": 2 * hits / max(float(flagged.sum() + labels.sum()), 1.0),
        "true_positive_rate": _share(flagged, labels == 1),
        "false_positive_rate": _share(flagged, labels == 0),
    }


@dataclass(frozen=True)
class ReliabilityBin:
    """Pairs whose p_unsafe lies in one bin: how many, their mean p_unsafe, and the share that is unsafe."""

    count: int
    predicted: float
    observed: float


def reliability(p_unsafe: NDArray[np.float64], labels: NDArray[np.int64], bins: int = BINS) -> list[ReliabilityBin]:
    """Return the bins of equal width that hold at least one pair."""
    index = np.minimum((p_unsafe * bins).astype(int), bins - 1)
    members = [index == b for b in range(bins)]
    return [ReliabilityBin(int(m.sum()), float(p_unsafe[m].mean()), float(labels[m].mean())) for m in members if m.any()]


def calibration_error(p_unsafe: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the expected calibration error: mean |predicted - observed| over bins, weighted by their counts.

    References:
        Guo et al. 2017, arXiv 1706.04599, equation 3.
    """
    return sum(b.count * abs(b.predicted - b.observed) for b in reliability(p_unsafe, labels)) / len(labels)


def reliability_svg(bins: Sequence[ReliabilityBin], title: str) -> str:
    """Return a reliability plot: predicted against observed, circles with an area that grows with the count."""
    total = sum(b.count for b in bins)
    dots = "".join(
        f'<circle cx="{40 + 240 * b.predicted:.1f}" cy="{270 - 240 * b.observed:.1f}" r="{3 + 14 * (b.count / total) ** 0.5:.1f}"'
        f' fill="#2b6cb0" fill-opacity="0.6"><title>{b.count} pairs</title></circle>'
        for b in bins
    )
    return _square(title, "predicted p(unsafe)", "observed", dots)


def roc_svg(p_unsafe: NDArray[np.float64], labels: NDArray[np.int64], title: str) -> str:
    """Return a ROC plot: the share of unsafe pairs flagged against that of safe ones as the threshold moves; a dot at 0.5.

    Raises:
        DataError: one class is missing.
    """
    if not 0 < labels.sum() < len(labels):
        raise DataError("safe and unsafe pairs", f"one class in {len(labels)}", "label pairs of both")
    false_alarms, hits, _ = roc_curve(labels, p_unsafe)
    line = " ".join(f"{40 + 240 * x:.1f},{270 - 240 * y:.1f}" for x, y in zip(false_alarms, hits, strict=True))
    found = figures(p_unsafe, labels)
    at = f'cx="{40 + 240 * found["false_positive_rate"]:.1f}" cy="{270 - 240 * found["true_positive_rate"]:.1f}"'
    drawn = f'<polyline points="{line}" fill="none" stroke="#2b6cb0" stroke-width="1.5"/><circle {at} r="4" fill="#2b6cb0"/>'
    return _square(f"{title}: AUC {found['auc']:.3f}", "safe pairs flagged", "unsafe pairs flagged", drawn)


def _square(title: str, x: str, y: str, drawn: str) -> str:
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 300 310" font-family="sans-serif" font-size="10">'
        '<rect width="300" height="310" fill="white"/><rect x="40" y="30" width="240" height="240" fill="none" stroke="#999"/>'
        '<line x1="40" y1="270" x2="280" y2="30" stroke="#999" stroke-dasharray="4"/>'
        f'<text x="160" y="20" text-anchor="middle">{escape(title)}</text><text x="160" y="300" text-anchor="middle">'
        f'{x}</text><text x="14" y="150" text-anchor="middle" transform="rotate(-90 14 150)">{y}</text>'
        f'<text x="36" y="273" text-anchor="end">0</text><text x="36" y="36" text-anchor="end">1</text>{drawn}</svg>\n'
    )


def _share(flagged: NDArray[np.bool_], among: NDArray[np.bool_]) -> float:
    return float(flagged[among].mean()) if among.any() else float("nan")
