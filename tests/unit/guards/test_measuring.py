"""Figures of a guard against values worked out by hand."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from softguard.core import Conversation, Verdict
from softguard.errors import DataError
from softguard.guards import LabelledPair, evaluate_guard
from softguard.guards.measuring import calibration_error, reliability, reliability_svg


class Scripted:
    name = fingerprint = "scripted"

    def __init__(self, p_safe: Sequence[float | None]) -> None:
        self._p_safe = p_safe

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        return [Verdict(ungraded="scripted") if p is None else Verdict(p) for p in self._p_safe]


def pairs(*unsafe: bool) -> list[LabelledPair]:
    return [LabelledPair("prompt", "response", u) for u in unsafe]


def test_rates_and_ranking() -> None:
    found = evaluate_guard(Scripted([0.1, 0.6, 0.3, 0.9]), pairs(True, True, False, False))
    assert found["auc"] == 0.75
    assert (found["true_positive_rate"], found["false_positive_rate"], found["f1"]) == (0.5, 0.5, 0.5)
    assert found["ece"] == pytest.approx((0.1 + 0.6 + 0.7 + 0.1) / 4)


def test_ungraded_is_counted_and_never_scored() -> None:
    found = evaluate_guard(Scripted([0.0, None, 1.0]), pairs(True, True, False))
    assert (found["pairs"], found["ungraded"], found["auc"], found["true_positive_rate"]) == (3, 1, 1.0, 1.0)


def test_one_class_has_no_auc_but_rates() -> None:
    found = evaluate_guard(Scripted([0.2, 0.9]), pairs(False, False))
    assert math.isnan(found["auc"])
    assert math.isnan(found["true_positive_rate"])
    assert found["false_positive_rate"] == 0.5


def test_nothing_graded_is_an_error() -> None:
    with pytest.raises(DataError, match="none of 1"):
        evaluate_guard(Scripted([None]), pairs(True))


def test_calibrated_scores_have_no_error_and_the_plot_has_every_bin() -> None:
    p, labels = np.array([0.25] * 4 + [1.0] * 2), np.array([0, 0, 0, 1, 1, 1])
    assert calibration_error(p, labels) == 0.0
    bins = reliability(p, labels)
    assert [b.count for b in bins] == [4, 2]
    assert reliability_svg(bins, "mini").count("<circle") == 2
