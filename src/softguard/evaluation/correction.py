"""The correction for asking one question on several suites: Holm over the suites that are shown together."""

from collections.abc import Sequence

from softguard.evaluation.comparisons import holm
from softguard.evaluation.results import EvaluationSummary


def corrected(summaries: Sequence[EvaluationSummary]) -> list[EvaluationSummary]:
    """Return the summaries with `p_holm` set: for each metric and pair of systems its p-values over all suites are corrected.

    The correction is the view's: which suites stand beside each other is not known when one of them is measured.
    """
    tested: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    for i, summary in enumerate(summaries):
        for j, d in enumerate(summary.differences):
            if d.p_value is not None:
                tested.setdefault((d.metric, d.system, d.reference), []).append((i, j))
    adjusted: dict[tuple[int, int], float] = {}
    for places in tested.values():
        p_values = [summaries[i].differences[j].p_value or 0.0 for i, j in places]
        adjusted |= dict(zip(places, holm(p_values), strict=True))
    return [
        summary.model_copy(
            update={
                "differences": [d.model_copy(update={"p_holm": adjusted.get((i, j))}) for j, d in enumerate(summary.differences)]
            }
        )
        for i, summary in enumerate(summaries)
    ]
