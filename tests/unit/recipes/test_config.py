from pathlib import Path

import pytest

from softguard.errors import ConfigError
from softguard.recipes.config import load_config, resolved, validate_config

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda p: p.name)
def test_every_shipped_config_parses_and_round_trips(path):
    config = load_config(path)
    assert validate_config(resolved(config)) == config


def test_set_goes_over_the_file():
    config = load_config(None, ["training.steps=7", "model.name=tiny", "objective.kind=tv_disp"])
    assert (config.training.steps, config.model.name, config.objective.kind) == (7, "tiny", "tv_disp")


def test_unknown_key_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'steps'"):
        load_config(None, ["training.stepps=7"])


@pytest.mark.parametrize(
    "bad", ["training.steps=0", "training.steps", "objective.kind=nonsense", "adapter.num_virtual_tokens=-1"]
)
def test_bad_values(bad):
    with pytest.raises(ConfigError):
        load_config(None, [bad])
