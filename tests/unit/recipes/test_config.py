import json
import tomllib
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from pydantic import BaseModel, TypeAdapter
from safetensors.torch import save_file

from softguard.errors import ConfigError
from softguard.objectives import OBJECTIVES
from softguard.recipes.config import Config, describe_settings, load_config, one_of, plan, resolved, validate_config
from softguard.registry import Registry

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.mark.parametrize("path", sorted(set(CONFIGS.glob("*.toml")) - {CONFIGS / "study.toml"}), ids=lambda p: p.name)
def test_every_shipped_config_parses_and_round_trips(path):
    config = load_config(path)
    assert validate_config(resolved(config)) == config


def test_set_goes_over_the_file():
    config = load_config(None, ["training.steps=7", "model.name=tiny", "objective.kind=tv_disp"])
    assert (config.training.steps, config.model.name, config.objective.kind) == (7, "tiny", "tv_disp")


def test_unknown_key_names_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean 'training\.steps'"):
        load_config(None, ["training.stepps=7"])
    with pytest.raises(ConfigError, match=r"did you mean 'training\.steps'"):
        load_config(None, ["steps=7"])


@pytest.mark.parametrize(
    "bad", ["training.steps=0", "training.steps", "objective.kind=nonsense", "adapter.num_virtual_tokens=-1"]
)
def test_bad_values(bad):
    with pytest.raises(ConfigError):
        load_config(None, [bad])


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("adapter.placement.count=8", "a table at adapter.placement"),
        ("model.name.first=8", "a table at model.name"),
        ("adapter.initial_text=''", "initial_text"),
        ("adapter.initial_text='  '", "initial_text"),
        ("training.drift_prompts=1", "greater than 1"),
        ("training.harmful_share=0.01", "0 harmful prompts of 16"),
        ("training.harmful_share=0.99", "16 harmful prompts of 16"),
        ("objective.reduction=mean", "objective.kind = forward_kl, jensen_shannon, reverse_kl, tempered_total_variation, total_"),
        ("adapter.rank=2", "adapter.kind = lora"),
        ("adapter.layer=2", "adapter.kind = difference_of_means, steering_vector"),
        ("trainig.steps=1", "did you mean 'training'"),
        ("objective.margn=1", "did you mean 'objective.margin'"),
    ],
)
def test_what_does_not_fit_is_said_before_any_work(bad, said, tmp_path):
    file = tmp_path / "given.toml"
    file.write_text('[model]\nname = "m"\n[adapter]\nplacement = [{ slot = "front", count = 32 }]\n')
    with pytest.raises(ConfigError) as caught:
        load_config(file, [bad])
    assert said in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00x", b"a = ", b"x = 1\n\x00"])
def test_a_file_that_is_no_toml(content, tmp_path):
    (tmp_path / "c.toml").write_bytes(content)
    with pytest.raises(ConfigError, match="a TOML file"):
        load_config(tmp_path / "c.toml")
    with pytest.raises(ConfigError, match="a TOML file"):
        load_config(tmp_path)


def test_an_objective_without_a_kind_is_the_default_one():
    config = load_config(None, ["objective.answer_weight=4"])
    assert (config.objective.kind, config.objective.answer_weight) == (Config().objective.kind, 4)


def test_a_setting_takes_whatever_is_registered():
    class Plain(BaseModel):
        kind: Literal["plain"] = "plain"

    class Other(BaseModel):
        kind: Literal["other", "third"] = "other"

    class Adapter:
        @classmethod
        def create(cls, config: Plain, lm: object, seed: int) -> object:
            return cls()

    def factory(config: Other) -> None: ...

    registry: Registry[Any] = Registry("thing", "softguard.nothing")
    registry.register("plain")(Adapter)
    alone = TypeAdapter(one_of(registry))
    assert alone.validate_python({}) == Plain()
    registry.register("other")(factory)
    registry.register("third")(factory)
    several = TypeAdapter(one_of(registry))
    assert several.validate_python({"kind": "third"}) == Other(kind="third")
    assert several.validate_python({"kind": "plain"}) == Plain()


def test_every_setting_is_listed_with_type_default_and_meaning():
    listed = describe_settings()
    text = "\n".join(s.line() for s in listed)
    assert validate_config(tomllib.loads(text)) == Config()  # the list is itself a config: the default one
    by_key = {s.key: s for s in listed}
    assert by_key["training.steps"].line() == "training.steps = 150  # int > 0: optimiser steps"
    assert set(by_key["objective.kind"].type.split(" | ")) == set(OBJECTIVES)
    assert by_key["objective.reduction"].line().startswith('# objective.reduction = "sum"  # sum | mean, with objective.kind')
    assert by_key["adapter.placement[].count"].line().startswith("# adapter.placement[].count  # int > 0")
    assert all(s.description for s in listed)
    assert by_key["adapter.rank"].line().startswith("# adapter.rank = 1  # int > 0, <= 1024, with adapter.kind lora")
    assert {k for k in by_key if k.startswith("data.")} == {s.key for s in describe_settings("data")}
    with pytest.raises(ConfigError, match=r"did you mean 'training'"):
        describe_settings("trainig")


def test_the_plan_counts_without_loading(tmp_path):
    settings = [f"model.name={tmp_path}", "training.steps=7", "training.batch_size=6", "training.accumulation=2"]
    unknown = plan(load_config(None, settings))
    assert unknown[0].startswith("learns 32 virtual tokens of a width that is not known yet: expected *.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    for config in ({"hidden_size": 40}, {"n_embd": 40}, {"text_config": {"hidden_size": 40}}):
        (tmp_path / "config.json").write_text(json.dumps(config))
        lines = plan(load_config(None, settings))
        assert lines[0] == "learns 1,280 numbers: 32 virtual tokens of width 40"
    assert lines[1] == "7 steps of 12 prompts, 6 of them harmful; validation every 25 steps"
