"""PPO's preset is the paper's setting, and the committed study runs the grid of rates that the objective states.

The values: Alfarra et al. 2026, arXiv 2606.09388, section 4 and appendix.
"""

import tomllib
from pathlib import Path

import pytest

from softguard.objectives.ppo import LEARNING_RATES, PAPER_LEARNING_RATES, Ppo, PpoConfig

STUDY = Path(__file__).parents[3] / "benchmarks" / "methods" / "1-on-policy.toml"


def test_the_preset_is_the_papers():
    paper = PpoConfig(preset="paper")
    assert paper.clip in (0.1, 0.2)
    assert paper.gae_lambda == 0.95
    assert paper.discount == 1.0
    assert 0 < paper.reference_kl_weight <= 0.05, "beta near 0, to the unprompted base"
    assert paper.max_new_tokens == 100
    assert 1e-4 <= paper.value_learning_rate <= 3e-4
    assert pytest.approx((1e-8, 3e-7, 6e-7, 9e-7), rel=1e-9) == PAPER_LEARNING_RATES


def test_the_objective_is_served_as_the_preset_says():
    made = Ppo(PpoConfig(preset="paper"))
    assert (made.sampling.max_new_tokens, made.sampling.temperature) == (100, 1.0)
    assert 1e-4 <= made.sampling.value_learning_rate <= 3e-4
    assert made.needs == {"on_policy", "dense"}


def test_what_is_given_goes_before_the_preset():
    assert PpoConfig(preset="paper", clip=0.1).clip == 0.1


def test_the_study_runs_our_rates_and_the_papers_largest():
    grids = tomllib.loads(STUDY.read_text(encoding="utf-8"))["grid"]
    (grid,) = (g for g in grids if g["objective.kind"] == ["ppo"])
    assert grid["objective.preset"] == ["paper"]
    assert set(grid["training.learning_rate"]) == {*LEARNING_RATES, max(PAPER_LEARNING_RATES)}
