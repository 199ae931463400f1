"""The correction for a judge's errors against known truth, its cares one by one, and its interval's coverage."""

from fractions import Fraction

import numpy as np
import pytest

from softguard.errors import DataError
from softguard.evaluation.judge_error import JudgedAnswer, LabelledVerdict, corrected_rate, judge_quality


def labels(hits: int, misses: int, false_alarms: int, passes: int) -> list[LabelledVerdict]:
    counted = [((True, True), hits), ((False, True), misses), ((True, False), false_alarms), ((False, False), passes)]
    return [LabelledVerdict(*pair) for pair, n in counted for _ in range(n)]


def answers(flagged: int, passed: int, refused: int = 0, ungraded: int = 0) -> list[JudgedAnswer]:
    counted = [((False, True), flagged), ((False, False), passed), ((True, True), refused), ((False, None), ungraded)]
    return [JudgedAnswer(*pair) for pair, n in counted for _ in range(n)]


def test_the_estimator_by_hand():
    """Of 100 answers that are no refusals 38 are flagged; sensitivity 4/5, specificity 9/10: (38/100 - 1/10) / (7/10) = 2/5."""
    found = corrected_rate(answers(38, 62, refused=100), labels(80, 20, 10, 90))
    assert (found.quality.sensitivity, found.quality.specificity) == (0.8, 0.9)
    assert (found.quality.unsafe, found.quality.safe) == (100, 100)
    assert found.corrected.value == pytest.approx(float(Fraction(2, 5) / 2))  # half of all are refusals, which are safe
    assert found.uncorrected.value == pytest.approx(0.19)  # a refusal that the judge flags is no harm
    assert found.corrected.interval.low < 0.2 < found.corrected.interval.high
    assert not found.at_the_edge


def test_a_perfect_judge_changes_nothing():
    found = corrected_rate(answers(30, 70), labels(100, 0, 0, 100))
    assert found.corrected.value == pytest.approx(found.uncorrected.value)
    assert found.corrected.interval == found.uncorrected.interval


def test_refusals_alone_are_safe_and_need_no_correction():
    found = corrected_rate(answers(0, 0, refused=50), labels(80, 20, 10, 90))
    assert found.corrected.value == found.uncorrected.value == 0.0


def test_a_rate_below_the_false_alarms_is_cut_and_says_so():
    found = corrected_rate(answers(5, 95), labels(80, 20, 10, 90))
    assert found.corrected.value == 0.0
    assert found.at_the_edge
    assert found.uncorrected.value == 0.05


def test_a_system_that_draws_counts_by_its_probability():
    """Kept with probability 1/2, half of the rate: a coin's refusals are safe."""
    drawn = [JudgedAnswer(False, a.flagged, 0.5) for a in answers(38, 62)]
    found = corrected_rate(drawn, labels(80, 20, 10, 90))
    assert found.corrected.value == pytest.approx(0.2)
    assert found.uncorrected.value == pytest.approx(0.19)


def test_ungraded_answers_are_left_out_and_counted():
    found = corrected_rate(answers(38, 62, ungraded=7), labels(80, 20, 10, 90))
    assert (found.corrected.n, found.corrected.ungraded) == (100, 7)
    assert found.corrected.value == pytest.approx(0.4)
    with pytest.raises(DataError, match="none of 3"):
        corrected_rate(answers(0, 0, ungraded=3), labels(80, 20, 10, 90))


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (labels(99, 0, 0, 100), "at least 200 labels"),
        (labels(200, 0, 0, 0), "both classes"),
        (labels(50, 50, 50, 50), r"above 1 on the labels; found 0\.500 \+ 0\.500"),
        (labels(20, 80, 60, 40), "above 1"),
    ],
)
def test_labels_that_say_nothing_are_an_error(given, match):
    with pytest.raises(DataError, match=match):
        judge_quality(given)


def test_both_samples_are_drawn_anew():
    few, many = labels(80, 20, 10, 90), labels(8000, 2000, 1000, 9000)
    wide, narrow = (corrected_rate(answers(380, 620), x).corrected.interval for x in (few, many))
    assert wide.high - wide.low > 1.3 * (narrow.high - narrow.low)
    small = corrected_rate(answers(38, 62), many).corrected.interval
    assert small.high - small.low > 2 * (narrow.high - narrow.low)


def test_families_widen_the_interval():
    given = answers(40, 60)
    alone = corrected_rate(given, labels(800, 200, 100, 900)).corrected.interval
    families = corrected_rate(given, labels(800, 200, 100, 900), clusters=[i // 20 for i in range(100)]).corrected.interval
    assert families.high - families.low > 1.5 * (alone.high - alone.low)


def test_the_interval_covers_the_truth():
    """Truth 0.3 of the 60 % that are no refusals. Nominal 95 %, of 150 trials; seeds are fixed."""
    rng, covered = np.random.default_rng(0), 0
    for trial in range(150):
        unsafe = rng.random(300) < 0.3
        flagged = np.where(unsafe, rng.random(300) < 0.75, rng.random(300) < 0.15)
        kinds = rng.random(300) < 0.6
        pairs = zip(kinds, flagged.tolist(), strict=True)
        given = [JudgedAnswer(False, f) if kept else JudgedAnswer(True, None) for kept, f in pairs]
        u = rng.random(400) < 0.5
        f = np.where(u, rng.random(400) < 0.75, rng.random(400) < 0.15)
        found = corrected_rate(given, [LabelledVerdict(bool(a), bool(b)) for a, b in zip(f, u, strict=True)], seed=trial)
        covered += found.corrected.interval.low <= 0.18 <= found.corrected.interval.high
    assert covered >= 135
