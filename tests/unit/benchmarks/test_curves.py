"""Both heads do the same work, a process measures one size, and an exponent says how a figure grew."""

from dataclasses import asdict

import pytest
import torch

from benchmarks.speed import curves
from benchmarks.speed.alone import in_a_process_of_its_own
from softguard.core.head import Head

HEADS = [
    {
        "vocabulary": vocabulary,
        "positions": positions,
        "softguard_s": vocabulary / 1024,
        "plain_s": vocabulary / 512,
        "softguard_mib": 50.0,
        "plain_mib": vocabulary * positions / 1024,
    }
    for positions in (64, 256)
    for vocabulary in (8_192, 32_768)
]
STEPS = [{"tokens": t, "length": t // 2, "softguard_s": t / 100, "plain_s": t * t / 100} for t in (128, 256, 512)]
FOUND = {
    "steps": STEPS,
    "heads": HEADS,
    "hardware": {"processor": "A Processor", "threads": 2},
    "versions": {"torch": "2.13.0"},
}


def test_an_exponent_is_of_the_ends():
    assert curves.exponent(STEPS, "tokens", "softguard_s") == 1.0
    assert curves.exponent(STEPS, "tokens", "plain_s") == 2.0
    assert curves.exponent(STEPS[::-1], "tokens", "plain_s") == 2.0
    assert curves.exponent(STEPS[:1], "tokens", "plain_s") is None


def test_a_peak_below_what_can_be_seen_has_no_exponent():
    assert curves.exponent([{"x": 1, "y": 0.0}, {"x": 2, "y": 3.0}], "x", "y") is None


def test_exponents_of_heads_are_at_the_most_positions():
    found = curves.exponents(STEPS, HEADS)
    assert found["softguard_head_peak_by_vocabulary"] == 0.0
    assert found["plain_head_peak_by_vocabulary"] == found["plain_head_seconds_by_vocabulary"] == 1.0
    assert curves.exponents([], []) == {}


def test_both_heads_have_the_same_gradient():
    torch.manual_seed(0)
    head, teacher = Head(torch.randn(64, 8)), torch.randn(6, 8)
    gradients = []
    for name in curves.CONTENDERS:
        states = torch.ones(6, 8, requires_grad=True)
        curves.head_step(name, head, states, teacher, torch.zeros(6, dtype=torch.long))()
        gradients.append(states.grad)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients)


def test_a_process_measures_its_rounds():
    found = in_a_process_of_its_own(curves.MODULE, asdict(curves.HeadCase("plain", 1_024, 8, "fp32", 2)))
    assert len(found["seconds"]) == 2
    assert all(s > 0 for s in found["seconds"])


@pytest.mark.parametrize(("left_out", "panels"), [((), 3), (("steps",), 2), (("heads",), 1)])
def test_every_curve_that_was_measured_is_drawn(left_out, panels):
    drawn = curves.plot({**FOUND, **{name: [] for name in left_out}})
    assert len(drawn.axes) == panels
    lines = {len(axes.get_lines()) for axes in drawn.axes}
    assert lines == ({2, 4} if panels == 3 else {4} if panels == 2 else {2})
    if not left_out:
        assert list(drawn.axes[0].get_lines()[1].get_ydata()) == [row["plain_s"] for row in STEPS]
