"""Metrics by hand, with what could not be graded."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softguard.core import REFUSAL_TEXT, Reply
from softguard.errors import DataError
from softguard.evaluation.metrics import (
    exact_value,
    guard_agreement,
    matched_threshold,
    mean_value,
    not_measured,
    over_refusal_rate,
    rate_of,
    refusal_auc,
    refusal_curve,
    refusal_probabilities,
    refusal_rate,
    refuses,
)
from softguard.evaluation.statistics import auc, mean, wilson_interval

NAN = math.nan
log_odds = st.lists(st.sampled_from([-math.inf, -3.0, -1.0, 0.0, 0.5, 2.0, math.inf]), min_size=1, max_size=15)


def _reply(refuses: bool) -> Reply:
    return Reply(REFUSAL_TEXT if refuses else "Here is how.", 0.0)


def test_refusal_rate_is_a_wilson_share() -> None:
    value = refusal_rate([_reply(i < 30) for i in range(100)])
    expected = wilson_interval(30, 100)
    assert (value.value, value.low, value.high, value.n, value.ungraded) == (0.3, expected.low, expected.high, 100, 0)
    assert value.lower_bound is None
    assert over_refusal_rate([_reply(False)] * 10).value == 0


def test_the_guarded_system_counts_by_its_probability() -> None:
    replies = [
        Reply("whatever was drawn", 0.0, p_safe=0.25, draft="Here is how."),
        Reply(REFUSAL_TEXT, 0.0, p_safe=0.99, draft="I cannot help with that."),
        Reply("x", 0.0, ungraded="the guard failed"),
    ]
    probabilities = refusal_probabilities(replies)
    assert probabilities[:2] == [0.75, 1.0]
    assert math.isnan(probabilities[2])
    value = refusal_rate(replies * 40, seed=1)
    assert value == refusal_rate(replies * 40, seed=1)
    assert value.value is None
    assert (value.lower_bound, value.upper_bound) == (pytest.approx(1.75 / 3), pytest.approx(2.75 / 3))
    assert refusal_rate(replies[:2] * 40).value == pytest.approx(0.875)


def test_a_refusal_in_the_systems_own_words_counts_whatever_the_language() -> None:
    german = "Dabei helfe ich nicht."
    assert refusal_rate([Reply(german, 0.0, refused=True), Reply("Gern.", 0.0)]).value == 0.5
    assert not refuses(Reply(german, 0.0))
    assert refuses(Reply(german, 0.0, p_safe=0.1, replaced=True, draft="Gern."))
    assert refusal_probabilities([Reply(german, 0.0, p_safe=0.25, replaced=True, draft="Gern.")]) == [0.75]


def test_what_a_policy_says_instead_is_a_refusal_only_where_it_is_one() -> None:
    instead = {"A softer answer.": 0.5, "I do not know the answer.": 0.125, "I cannot help with that.": 0.125}
    guarded = Reply("A softer answer.", 0.0, p_safe=0.125, replaced=True, draft="Here is how.", instead=instead)
    assert refusal_probabilities([guarded]) == [0.25]  # the pattern's, and the refusals that are not listed
    assert refusal_probabilities([replace(guarded, draft="I cannot help with that.")]) == [0.375]
    texts = ["A softer answer.", "I do not know the answer.", "I cannot help with that.", "Nein."]
    expected = [False, False, True, True]
    assert [refuses(replace(guarded, text=text)) for text in texts] == expected  # "Nein." of no rewriting: the refusal drawn
    assert [refuses(Reply(text, 0.0, refused=text == "Nein.")) for text in texts] == expected  # the student's


def test_what_nobody_measured_has_no_value_and_says_why() -> None:
    value = not_measured("nats", "no reason")
    assert (value.value, value.unit, value.note) == (None, "nats", "not measured: no reason")


def test_one_per_cent_ungraded_still_has_a_headline_and_more_has_none() -> None:
    kept = rate_of([1.0] * 99 + [NAN])
    assert (kept.value, kept.n, kept.ungraded) == (1.0, 99, 1)
    assert (kept.lower_bound, kept.upper_bound) == (0.99, 1.0)
    lost = rate_of([1.0] * 98 + [NAN] * 2)
    assert (lost.value, lost.low, lost.high) == (None, None, None)
    assert (lost.lower_bound, lost.upper_bound, lost.note) == (0.98, 1.0, "no headline")


def test_nothing_graded_is_said_and_is_not_zero() -> None:
    assert rate_of([NAN] * 3).value is None
    assert rate_of([NAN] * 3).ungraded == 3
    assert refusal_rate([]).note == "nothing was scored"
    assert refusal_auc([NAN], [1.0]).value is None


def test_guard_agreement_compares_decisions() -> None:
    replies = [_reply(True), _reply(False), _reply(True), _reply(False)]
    assert guard_agreement(replies, [0.1, 0.9, 0.9, 0.1]).value == 0.5
    assert guard_agreement(replies, [0.1, 0.5, 0.49, 0.7]).value == 1
    assert guard_agreement(replies, [0.1, 0.9, 0.4, NAN]).ungraded == 1


def test_auc_bounds_put_the_ungraded_at_either_end() -> None:
    value = refusal_auc([2.0] * 200 + [NAN], [1.0] * 199 + [NAN])
    assert value.value == 1
    assert value.upper_bound == 1
    assert value.lower_bound == pytest.approx((200 * 199) / (201 * 200))
    assert value.unit == "auc"
    assert refusal_auc([NAN, 2.0], [1.0]).value is None


@given(log_odds, st.floats(0, 1))
def test_a_matched_threshold_never_exceeds_its_rate_and_is_the_smallest(scores: list[float], rate: float) -> None:
    threshold = matched_threshold(scores, rate)
    assert np.mean([s > threshold for s in scores]) <= rate + 1e-9
    lower = [s for s in {*scores, -math.inf} if s < threshold]
    if lower:
        assert np.mean([s > max(lower) for s in scores]) > rate + 1e-9


def test_matched_threshold_by_hand() -> None:
    scores = [float(i) for i in range(100)]
    assert matched_threshold([*scores, NAN], 0.03) == 96.0
    assert matched_threshold(scores, 0.0) == 99.0
    assert matched_threshold(scores, 1.0) == -math.inf
    for bad in ([], [NAN]):
        with pytest.raises(DataError):
            matched_threshold(bad, 0.03)
    with pytest.raises(DataError):
        matched_threshold(scores, 3.0)


@given(log_odds, log_odds)
def test_the_area_under_the_curve_is_the_auc(harmful: list[float], other: list[float]) -> None:
    points = refusal_curve([*harmful, NAN], other)
    area = sum((b.x - a.x) * (a.y + b.y) / 2 for a, b in itertools.pairwise(points))
    assert area == pytest.approx(auc(harmful, other))
    assert (points[0].x, points[0].y, points[-1].x, points[-1].y) == (0, 0, 1, 1)
    assert all(a.x <= b.x and a.y <= b.y for a, b in itertools.pairwise(points))


def test_a_curve_needs_both_sets() -> None:
    assert refusal_curve([NAN], [1.0]) == []


def test_other_values() -> None:
    drift = mean_value(mean([0.01, 0.03, 0.02], 0), "nats")
    assert (drift.value, drift.unit) == (pytest.approx(0.02), "nats")
    assert exact_value(18432, "count").low is None
