"""The judges of a suite as a matrix: kappa above the diagonal, the share of equal verdicts below it."""

from collections.abc import Sequence
from dataclasses import dataclass

from softguard.evaluation.results import JudgeAgreement
from softguard.reports.wording import number


@dataclass(frozen=True)
class Matrix:
    """Judges in order, and a row of cells for each; the diagonal is empty."""

    judges: Sequence[str]
    cells: Sequence[Sequence[str]]


def agreement_matrix(pairs: Sequence[JudgeAgreement]) -> Matrix:
    """Return the matrix; a pair that was not compared has an empty cell."""
    judges = list(dict.fromkeys(name for a in pairs for name in (a.first, a.second)))
    found = {(a.first, a.second): a for a in pairs} | {(a.second, a.first): a for a in pairs}
    cells = [
        [_cell(found.get((row, column)), i < j) if i != j else "" for j, column in enumerate(judges)]
        for i, row in enumerate(judges)
    ]
    return Matrix(judges, cells)


def _cell(pair: JudgeAgreement | None, above: bool) -> str:
    if pair is None:
        return ""
    if pair.observed is None:
        return "nothing that both have graded"
    if above:
        interval = f" ({pair.low:.2f} to {pair.high:.2f})" if pair.low is not None and pair.high is not None else ""
        return "kappa not defined: one verdict throughout" if pair.kappa is None else f"kappa {pair.kappa:.2f}{interval}"
    ungraded = f", {pair.ungraded} ungraded by either" if pair.ungraded else ""
    return f"{number(pair.observed, 'rate')} of {pair.n} answers{ungraded}"
