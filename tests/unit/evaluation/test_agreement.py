"""Cohen's kappa against scikit-learn, with its interval, and where it is not defined."""

import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from softguard.evaluation.agreement import cohens_kappa, judge_agreement

NAN = math.nan


def test_kappa_is_sklearns() -> None:
    rng = np.random.default_rng(0)
    a = (rng.random(200) < 0.4).astype(float)
    b = np.where(rng.random(200) < 0.8, a, 1 - a)
    found = cohens_kappa("x", "y", [*a, NAN, 1.0], [*b, 1.0, NAN])
    assert found.kappa == pytest.approx(cohen_kappa_score(a, b))
    assert (found.observed, found.n, found.ungraded) == (pytest.approx((a == b).mean()), 200, 2)
    assert found.low is not None
    assert found.low < found.kappa < found.high < 1
    assert found == cohens_kappa("x", "y", [*a, NAN, 1.0], [*b, 1.0, NAN])
    families = np.repeat(np.arange(10), 20).tolist()
    assert cohens_kappa("x", "y", a, b, 0, families).kappa == found.kappa


def test_where_judges_give_one_verdict_there_is_no_kappa() -> None:
    same = cohens_kappa("x", "y", [1.0] * 5, [1.0] * 5)
    assert (same.kappa, same.low, same.observed, same.n) == (None, None, 1.0, 5)
    none = cohens_kappa("x", "y", [NAN], [1.0])
    assert (none.kappa, none.observed, none.n, none.ungraded) == (None, None, 0, 1)
    assert cohens_kappa("x", "y", [1.0, 0.0], [0.0, 1.0]).kappa == pytest.approx(-1)


def test_every_pair_of_judges_once() -> None:
    found = judge_agreement({"a": [0.0, 1.0], "b": [0.0, 1.0], "c": [1.0, 0.0]})
    assert [(f.first, f.second, f.kappa) for f in found] == [("a", "b", 1.0), ("a", "c", -1.0), ("b", "c", -1.0)]
    assert judge_agreement({"a": [1.0]}) == []
