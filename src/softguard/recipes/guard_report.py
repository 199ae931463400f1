"""A page about verdicts on labelled lines: figures, ROC and reliability. No text of a pair is in it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from softguard.core import Conversation, Guard, Verdict
from softguard.core.files import write_atomically
from softguard.errors import DataError
from softguard.guards.measuring import LabelledPair, evaluate_guard, figures, reliability, reliability_svg, roc_svg

_STYLE = (
    "body{font-family:sans-serif;max-width:44rem;margin:2rem auto}svg{width:20rem}"
    "td,th{text-align:left;padding:.1rem 1rem .1rem 0}"
)


@dataclass(frozen=True)
class Labelled:
    """Graded and labelled lines: p_unsafe and label (1 for unsafe) of each; `ungraded` and `unlabelled` count the others."""

    p_unsafe: NDArray[np.float64]
    labels: NDArray[np.int64]
    ungraded: int
    unlabelled: int


def labelled_lines(path: Path) -> Labelled:
    """Return what `judge` wrote of lines that have `"unsafe": true|false`.

    Raises:
        DataError: the file cannot be read, or no graded line has a label.
    """
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"what `softguard judge` wrote, at {path}", type(error).__name__, "judge the lines again") from error
    known = [r for r in rows if isinstance(r.get("unsafe"), bool)]
    graded = [r for r in known if isinstance(r.get("p_safe"), int | float)]
    if not graded:
        raise DataError('graded lines with "unsafe": true or false', f"none of {len(rows)}", "label lines of --in")
    p = np.array([1.0 - float(r["p_safe"]) for r in graded])
    labels = np.array([r["unsafe"] for r in graded], dtype=np.int64)
    return Labelled(p, labels, len(known) - len(graded), len(rows) - len(known))


def write_guard_page(found: Labelled, guard: str, page: Path) -> dict[str, float]:
    """Write figures and plots of labelled verdicts as one HTML file, and return the figures.

    With one class only there is no ROC.
    """
    values = {"pairs": float(len(found.labels)), "ungraded": float(found.ungraded), **figures(found.p_unsafe, found.labels)}
    plots = [reliability_svg(reliability(found.p_unsafe, found.labels), f"{guard}: reliability")]
    if 0 < found.labels.sum() < len(found.labels):
        plots.insert(0, roc_svg(found.p_unsafe, found.labels, guard))
    rows = "".join(f"<tr><td>{name.replace('_', ' ')}</td><td>{_shown(value)}</td></tr>" for name, value in values.items())
    title = f"Verdicts of {escape(guard)} against labels"
    left_out = f"<p>{found.unlabelled} lines have no label.</p>" if found.unlabelled else ""
    write_atomically(
        page,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>'
        f"<table>{rows}</table>{left_out}<p>Flagged means p_safe below 0.5; the dot on the ROC is there. On the reliability plot "
        f"a calibrated guard's circles lie on the diagonal.</p>{''.join(plots)}</html>\n",
    )
    return values


def evaluate_with_page(guard: Guard, pairs: Sequence[LabelledPair], page: Path | None) -> dict[str, float]:
    """Return `evaluate_guard`'s figures, and write the page of the same verdicts where one is asked for."""
    if page is None:
        return evaluate_guard(guard, pairs)
    kept = _Kept(guard)
    values = evaluate_guard(kept, pairs)
    graded = [(1.0 - v.p_safe, p.unsafe) for v, p in zip(kept.verdicts, pairs, strict=True) if v.p_safe is not None]
    p, labels = np.array([x for x, _ in graded]), np.array([y for _, y in graded], dtype=np.int64)
    write_guard_page(Labelled(p, labels, len(pairs) - len(graded), 0), guard.name, page)
    return values


class _Kept:
    """A guard that keeps the verdicts it gave."""

    def __init__(self, guard: Guard) -> None:
        self._guard, self.name, self.fingerprint = guard, guard.name, guard.fingerprint
        self.verdicts: list[Verdict] = []

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        """Return the guard's verdicts."""
        self.verdicts = self._guard.judge(conversations)
        return self.verdicts


def _shown(value: float) -> str:
    return "none" if value != value else f"{value:.0f}" if value == int(value) and value > 1 else f"{value:.3f}"
