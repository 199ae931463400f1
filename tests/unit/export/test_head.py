"""Rows of virtual tokens in the head: never the likeliest."""

import pytest
import torch

from softguard.core.head import Head
from softguard.errors import CompatibilityError
from softguard.export.head import RealLogits, silent_row
from softguard.export.head import speakability as bound

V, D = 50, 16


def head(seed=0):
    return Head(torch.randn(V, D, generator=torch.Generator().manual_seed(seed)))


def states(count, offset=0.0, seed=1):
    return torch.randn(count, D, generator=torch.Generator().manual_seed(seed)) + offset


def speakability(head, states, silent, count):
    return bound(head, states, RealLogits.of(head, states), silent, count)


def test_states_without_a_common_direction_get_the_mean_row_which_never_wins():
    silent = silent_row(head(), states(500))
    torch.testing.assert_close(silent, head().weight.mean(0))
    for seed in range(5):  # states that it was not chosen on, some of them far out
        found = speakability(head(), 100 * states(200, seed=seed + 7), silent, 4)
        assert found.largest_gap_nats < 0
        assert found.positions == 200


def test_a_common_direction_widens_the_gap():
    near = states(500, offset=3.0)
    silent = silent_row(head(), near)
    plain = speakability(head(), near, head().weight.mean(0), 4)
    wide = speakability(head(), near, silent, 4)
    assert wide.smallest_alignment > 0
    assert wide.largest_gap_nats < plain.largest_gap_nats - 10
    assert wide.largest_probability < 1e-6


def test_rows_of_zeros_can_win():
    negative = Head(-head().weight.abs())
    positive = states(50).abs()
    assert speakability(negative, positive, torch.zeros(D), 4).largest_gap_nats > 0
    assert speakability(negative, positive, silent_row(negative, positive), 4).largest_gap_nats < 0


def test_a_head_with_a_bias_is_refused():
    with pytest.raises(CompatibilityError, match="bias"):
        silent_row(Head(torch.randn(V, D), torch.zeros(V)), states(10))
