"""Paired tests against brute force, known values and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softguard.errors import DataError
from softguard.evaluation.comparisons import (
    MCNEMAR,
    SIGN_FLIPS,
    compare,
    detectable_difference,
    holm,
    mcnemar,
    prompts_needed,
)

NAN = math.nan


@pytest.mark.parametrize(("b", "c", "p"), [(0, 0, 1.0), (6, 0, 2 / 64), (5, 1, 14 / 64), (3, 3, 1.0), (1, 0, 1.0)])
def test_mcnemar_by_hand(b: int, c: int, p: float) -> None:
    assert mcnemar(b, c) == pytest.approx(p)
    assert mcnemar(c, b) == pytest.approx(p)


def test_independent_yes_and_no_is_mcnemars_and_ungraded_pairs_are_counted() -> None:
    a = [1, 1, 1, 1, 1, 1, 0, NAN, 1]
    b = [0, 0, 0, 0, 0, 0, 0, 1, NAN]
    found = compare(a, b, seed=0)
    assert (found.test, found.p_value) == (MCNEMAR, pytest.approx(2 / 64))
    assert (found.difference.value, found.difference.n, found.difference.ungraded) == (pytest.approx(6 / 7), 7, 2)
    assert found.discordant == pytest.approx(6 / 7)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=7), st.integers(0, 3))
def test_sign_flips_are_brute_force(gaps: list[float], seed: int) -> None:
    array = np.round(np.array(gaps), 3)
    a, b = np.maximum(array, 0), np.maximum(-array, 0)
    families = list(range(len(gaps)))
    totals = [
        abs(sum(s * g for s, g in zip(signs, array, strict=True))) for signs in itertools.product((1, -1), repeat=len(gaps))
    ]
    expected = np.mean([t >= abs(array.sum()) - 1e-9 for t in totals])
    found = compare(a, b, seed, families)
    assert found.test == SIGN_FLIPS
    assert found.p_value == pytest.approx(expected, abs=1e-6)


def test_families_count_once_and_the_seed_fixes_the_answer() -> None:
    a, b = np.ones(60), np.zeros(60)
    families = np.repeat(np.arange(4), 15).tolist()
    assert compare(a, b, 0).p_value < 1e-10
    assert compare(a, b, 0, families).p_value == pytest.approx(2 / 16)  # four families that agree are four coins
    rng = np.random.default_rng(0)
    x, y = rng.random(40), rng.random(40)
    assert compare(x, y, 5).p_value == compare(x, y, 5).p_value
    assert compare(x, x, 5).p_value == 1


def test_the_sign_flip_test_keeps_its_level() -> None:
    false = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        shift = np.repeat(rng.normal(0, 0.3, 12), 5)  # what a family shares
        a, b = np.full(60, 0.5), np.clip(0.5 + shift + rng.normal(0, 0.02, 60), 0, 1)
        false += compare(a, b, trial, np.repeat(np.arange(12), 5).tolist()).p_value <= 0.05
    assert 2 <= false <= 20  # 10 expected; taken for independent, these would be far more


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    for wrong in ([1.2], [NAN]):
        with pytest.raises(DataError):
            holm(wrong)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_none_and_bonferroni_and_keeps_the_order(p: list[float]) -> None:
    adjusted = holm(p)
    for raw, value in zip(p, adjusted, strict=True):
        assert raw <= value <= min(1.0, len(p) * raw) + 1e-12
    assert [adjusted[i] for i in sorted(range(len(p)), key=p.__getitem__)] == sorted(adjusted)


def test_so_many_prompts_have_that_power() -> None:
    d, psi = 0.1, 0.25
    n = prompts_needed(d, psi)
    assert detectable_difference(n, psi) == pytest.approx(d, abs=0.001)
    rng = np.random.default_rng(0)
    better, worse = (psi + d) / 2, (psi - d) / 2
    draws = rng.multinomial(n, [better, worse, 1 - psi], size=1500)
    seen = np.mean([mcnemar(int(b), int(c)) <= 0.05 for b, c, _ in draws])
    assert 0.74 <= seen <= 0.84  # the exact test is a little conservative


def test_power_at_its_edges() -> None:
    assert prompts_needed(0.05, 0.05) < prompts_needed(0.05, 0.3)
    assert prompts_needed(-0.1, 0.2) == prompts_needed(0.1, 0.2)
    assert detectable_difference(3, 0.1) is None
    assert detectable_difference(100, 0.0) is None
    for d, psi in ((0.0, 0.2), (0.3, 0.2), (0.1, 1.2)):
        with pytest.raises(DataError):
            prompts_needed(d, psi)
