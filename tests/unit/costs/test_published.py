"""The paper's models have the sizes that they are published with, and the comparison says what its own figures say."""

import pytest

from softguard.costs import ModelShape, compare_with_paper
from softguard.costs.published import published_models

PARAMETERS = {
    "llama-3.2-1b": 1_235_814_400,
    "qwen2-1.5b": 1_543_714_304,
    "gemma-2-2b": 2_614_341_888,
    "llama-3.2-3b": 3_212_749_824,
}
"""As the published weights hold them, counted by their makers."""


@pytest.fixture(scope="module")
def found():
    return compare_with_paper()


def test_sizes_are_the_published_ones():
    models = {m.name: m for m in published_models()}
    assert set(models) == set(PARAMETERS)
    for name, model in models.items():
        assert ModelShape.from_config(model.config).parameters == PARAMETERS[name]
        assert len(model.source.split("/blob/")[1].split("/")[0]) == 40  # a permalink


def test_llama_1b_by_hand(found):
    row = next(r for r in found.rows if r.model == "llama-3.2-1b")
    layer = 2 * 2048 * 2048 + 2 * 2048 * 512 + 3 * 2048 * 8192
    without = 2 * 16 * layer + 4 * 512 * 2048 * 16
    assert row.ours_without_head["base"] * 1e9 == pytest.approx(without)
    assert row.ours_with_head["base"] * 1e9 == pytest.approx(without + 2 * 2048 * 128_256)
    assert row.ours_without_head["guarded"] * 1e9 == pytest.approx(2 * without)  # the guard has this model's shape
    anew = (612 * 2 * 16 * layer + 4 * 612 * 612 * 2048 * 16) / 512
    assert row.our_student_ratios["anew, over 512"] == pytest.approx(anew / without)


def test_memory_is_as_the_paper_says(found):
    guard = {r.model: r.memory_guard for r in found.rows}
    assert guard["llama-3.2-1b"] == 1
    assert guard["llama-3.2-3b"] == pytest.approx(1_235_814_400 / 3_212_749_824)
    assert min(guard.values()) >= 0.3
    row = found.rows[0]
    numbers = 100 * 2048 + 100 * 2 * 16 * 512  # W, and keys and values of 16 layers of 8 heads of 64
    assert row.memory_prompt == pytest.approx(numbers * 2 / (1_235_814_400 * 0.5))
    assert max(r.memory_prompt for r in found.rows) < 0.01


def test_windows_longer_than_the_context_change_nothing(found):
    row = next(r for r in found.rows if r.model == "gemma-2-2b")
    layer = 2 * 2304 * 2048 + 2 * 2304 * 1024 + 3 * 2304 * 9216
    assert row.ours_without_head["base"] * 1e9 == pytest.approx(2 * 26 * layer + 4 * 512 * 2048 * 26)


def test_conventions_stand_by_their_worst_gap_and_the_finding_names_the_first(found):
    worst = [g.worst for g in found.conventions]
    assert worst == sorted(worst)
    assert f"'{found.conventions[0].convention}'" in found.finding
    gaps = {g.convention: g for g in found.conventions}
    assert gaps["body and attention, no head"].worst < gaps["body, attention and head"].worst
    assert "unexplained" in found.finding  # no convention gives all four figures
    plain = gaps["body with keys and values for every query head, no attention, no head"].gaps
    assert abs(plain["llama-3.2-1b"]) < 0.005 / 2.15
    assert abs(plain["qwen2-1.5b"]) < 0.005 / 2.84
