"""The linear guard: the formula, sides kept apart, files that are none."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from softguard.core import Conversation
from softguard.errors import SourceError
from softguard.guards.linear import FEATURES, MAX_CHARACTERS, LinearGuard, LinearWeights, features
from softguard.guards.registry import make_guard


def test_log_odds_are_features_times_weights():
    rng = np.random.default_rng(0)
    weights = LinearWeights(rng.normal(size=2 * FEATURES), 0.3)
    found = features([("one two", "three")])
    log_odds = float(sum(v * weights.weight[j] for v, j in zip(found.data, found.indices, strict=True)) + 0.3)
    verdict = LinearGuard(weights, "l").judge([Conversation.from_prompt("one two").with_response("three")])[0]
    assert verdict.p_safe == pytest.approx(1 / (1 + np.exp(log_odds)), abs=1e-5)


def test_a_word_counts_by_where_it_stands():
    both = features([("word", "other"), ("other", "word")]).toarray()
    assert set(np.flatnonzero(both[0])) != set(np.flatnonzero(both[1]))
    assert all((np.flatnonzero(row) < FEATURES).sum() == 1 for row in both)
    assert np.linalg.norm(both[0][:FEATURES]) == pytest.approx(1.0)


def test_a_long_answer_is_cut_and_says_so():
    guard = LinearGuard(LinearWeights(np.zeros(2 * FEATURES), 0.0), "l")
    pair = Conversation.from_prompt("a")
    found = guard.judge([pair.with_response("b" * MAX_CHARACTERS), pair.with_response("b" * (MAX_CHARACTERS + 1))])
    assert [(v.p_safe, v.truncated) for v in found] == [(0.5, False), (0.5, True)]


def test_files_that_are_none(tmp_path):
    with pytest.raises(SourceError, match="train-judge"):
        make_guard({"kind": "linear", "weights": "none.safetensors"}, tmp_path)
    save_file({"weight": np.zeros(8, dtype=np.float32), "bias": np.zeros(1, dtype=np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(SourceError, match=r"\[8\]"):
        make_guard({"kind": "linear", "weights": "w.safetensors"}, tmp_path)
