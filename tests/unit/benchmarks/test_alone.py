"""A process's peak is its own, and one that fails says why."""

from dataclasses import asdict

import pytest
import torch

from benchmarks.speed import curves
from benchmarks.speed.alone import MIB, in_a_process_of_its_own, peak_bytes, reset_peak, resident_bytes


def test_a_peak_does_not_have_the_memory_of_the_process_that_started_it():
    ballast = torch.ones(800 * MIB // 4)
    found = in_a_process_of_its_own(curves.MODULE, asdict(curves.HeadCase("plain", 1_024, 8, "fp32", 1)))
    assert ballast.numel()
    if not found["reset"]:
        pytest.skip("this kernel cannot set the high-water mark back")
    assert found["peak_mib"] < 300


def test_a_peak_is_of_what_came_after_it_was_set_back():
    if not reset_peak():
        pytest.skip("this kernel cannot set the high-water mark back")
    before = resident_bytes()
    block = torch.ones(200 * MIB // 4)
    del block
    assert 190 * MIB < peak_bytes() - before < 260 * MIB
    reset_peak()
    assert peak_bytes() - before < 100 * MIB


def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match="missing 4 required"):
        in_a_process_of_its_own(curves.MODULE, {"contender": "no such contender"})
