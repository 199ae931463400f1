"""The probe of frozen states: the block that tells is found on validation, and figures are those of the prompts as they are."""

import numpy as np
import pytest

pytest.importorskip("sklearn")
from benchmarks.methods import probe
from benchmarks.methods.paired import drawn


def states(rng, harmful, telling):
    x = rng.standard_normal((len(harmful), len(probe.BLOCKS), 8)).astype(np.float32)
    x[:, telling, 0] += 6 * np.asarray(harmful)
    return x


def test_the_block_that_tells_is_chosen():
    rng = np.random.default_rng(0)
    harmful, held = [bool(i % 2) for i in range(200)], [bool(i % 2) for i in range(100)]
    fitted, block, chosen = probe.fit(states(rng, harmful, 3), harmful, states(rng, held, 3), held)
    assert (block, chosen["block"]) == (3, probe.BLOCKS[3])
    assert chosen["validation_auc"] > 0.98
    scores = fitted.decision_function(states(rng, held, 3)[:, block])
    assert scores[np.asarray(held)].min() > np.median(scores[~np.asarray(held)])


def test_an_interval_stands_around_the_value_of_the_prompts_as_they_are():
    rng = np.random.default_rng(0)
    up, down = np.arange(5.0, 25.0), np.arange(0.0, 20.0)
    found = probe._interval(up, down, drawn(range(20), rng), drawn(range(20), rng))
    wins = (up[:, None] > down).mean() + 0.5 * (up[:, None] == down).mean()
    assert found["value"] == pytest.approx(wins)
    assert found["low"] < wins < found["high"]


def test_the_smaller_training_set_is_the_beginning_of_the_larger():
    """Its states are taken from the front."""
    assert probe.MORE[: len(probe.OWN)] == probe.OWN
