"""What a run leaves to the machine is measured once, written down, kept when it goes on, and taken as given on repetition."""

import json
import shutil
import tomllib

import pytest
import torch
from safetensors.torch import load_file

from softguard.core.processes import Processes
from softguard.data import PromptRow
from softguard.errors import CompatibilityError, ConfigError
from softguard.models import autotune
from softguard.recipes import distill as distilling
from softguard.recipes import tuning
from softguard.recipes.config import load_config, on_this_machine, resolved, validate_config
from softguard.recipes.prompts import RunPrompts
from softguard.runs import RunDir
from tests.fakes import tiny_model

SMALL = [
    *("teacher.guard=keyword", "teacher.max_new_tokens=4", "adapter.num_virtual_tokens=3", "model.dtype=float32"),
    *("training.steps=2", "training.batch_size=2", "training.validate_every=1"),
]
WORDS = (("harmful", "bomb"), ("look_alike", "bath bomb"), ("benign", "bread"))
ROWS = [
    PromptRow(f"{split}-{label}", f"{word} {split}", label, "softguard", split=split)
    for split in ("train", "validation")
    for label, word in WORDS
]


@pytest.fixture
def house(tmp_path, monkeypatch):
    """Everything that a run loads, made small; sdpa is the fastest here. Yields how often a step was timed."""
    timed = []

    def step(lm, candidate):
        timed.append(candidate)
        return {"sdpa": 0.5}.get(candidate.attention, 1.0), torch.ones(1)

    monkeypatch.setenv("SOFTGUARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(autotune, "_timed_step", step)
    monkeypatch.setattr(autotune, "thread_counts", lambda: (1,))
    rows = RunPrompts(*([r for r in ROWS if r.split == split] for split in ("train", "validation")), [])
    monkeypatch.setattr(distilling, "run_prompts", lambda config, data_dir: rows)

    def loaded(config):
        lm = tiny_model()
        lm.network.set_attn_implementation("grouped" if config.model.attention == "auto" else config.model.attention)
        return lm

    monkeypatch.setattr(distilling, "load_base", loaded)
    before = torch.get_num_threads()
    yield timed
    torch.set_num_threads(before)


def weights(run):
    return load_file(run / "adapter" / "adapter_model.safetensors")


def test_what_was_measured_is_in_the_run_and_repeats_it_bit_for_bit(house, tmp_path):
    told = []
    run = distilling.distill(load_config(None, SMALL), tmp_path / "a", None, lambda stage, *rest: told.append(stage))
    assert (run.config["model"]["attention"], run.config["model"]["threads"]) == ("sdpa", 1)
    assert "attention and threads" in told
    count = len(house)
    shutil.rmtree(tmp_path / "cache")  # another machine that was told nothing
    given = validate_config(tomllib.loads((tmp_path / "a" / "config.toml").read_text()))
    assert distilling.distill(given, tmp_path / "b").config == run.config
    assert len(house) == count
    first, second = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_run_goes_on_as_it_began(house, tmp_path, monkeypatch):
    config = load_config(None, SMALL)
    trained = distilling.train

    def stopped(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(distilling, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        distilling.distill(config, tmp_path / "run")
    monkeypatch.setattr(distilling, "train", trained)
    monkeypatch.setattr(autotune, "_timed_step", lambda *given: pytest.fail("measured again"))
    shutil.rmtree(tmp_path / "cache")
    seen = []
    monkeypatch.setattr(distilling, "train", lambda lm, *rest: seen.append(lm.attention) or trained(lm, *rest))
    run = distilling.distill(config, tmp_path / "run")
    assert run.stages() == ["train"]
    assert (run.config["model"]["attention"], seen) == ("sdpa", ["sdpa"])
    with pytest.raises(CompatibilityError, match=r"model\.attention = 'eager', there 'sdpa'"):
        distilling.distill(load_config(None, [*SMALL, "model.attention=eager"]), tmp_path / "run")


def test_what_is_set_is_neither_measured_nor_changed(house, tmp_path):
    run = distilling.distill(load_config(None, [*SMALL, "model.attention=eager", "model.threads=1"]), tmp_path / "run")
    assert (run.config["model"]["attention"], run.config["model"]["threads"], house) == ("eager", 1, [])


def test_only_what_is_left_open_is_taken_from_the_run(tmp_path):
    begun = load_config(None, ["model.attention=sdpa", "model.threads=3", "model.dtype=bfloat16"])
    RunDir.create(tmp_path / "run", resolved(begun))
    config = load_config(None, ["model.dtype=float32", "model.threads=2"])
    model = tuning.as_begun(config, tmp_path / "run").model
    assert (model.attention, model.threads, model.dtype) == ("sdpa", 2, "float32")
    assert tuning.as_begun(load_config(None), tmp_path / "run").model == begun.model
    assert tuning.as_begun(config, tmp_path / "absent") == config


def test_several_processes_keep_the_threads_that_their_launcher_gave_them(monkeypatch, tmp_path):
    monkeypatch.setenv("SOFTGUARD_CACHE", str(tmp_path))
    monkeypatch.setattr(autotune, "thread_counts", lambda: (7, 1))
    config, lm = load_config(None), tiny_model()
    assert tuning.tuned(config, lm).model.threads == 7
    monkeypatch.setattr(tuning, "processes", lambda: Processes(0, 2))
    assert tuning.tuned(config, lm).model.threads == torch.get_num_threads()


def test_the_machine_alone_says_nothing_of_attention():
    model = on_this_machine(load_config(None)).model
    assert (model.attention, model.threads) == ("auto", 0)
    assert model.dtype in ("float32", "bfloat16")


@pytest.mark.parametrize(
    ("bad", "said"),
    [("model.attention=flash", "'auto', 'grouped', 'fused', 'eager' or 'sdpa'"), ("model.threads=-1", "greater than")],
)
def test_what_is_no_kernel_or_number(bad, said):
    with pytest.raises(ConfigError, match=said):
        load_config(None, [bad])


def test_a_model_is_loaded_before_it_is_measured(monkeypatch):
    asked = []
    monkeypatch.setattr(distilling, "load_model", lambda name, **given: asked.append(given["attention"]))
    for setting in ("auto", "sdpa"):
        distilling.load_base(load_config(None, [f"model.attention={setting}", "model.dtype=float32"]))
    assert asked == ["grouped", "sdpa"]


def test_what_is_remembered_is_readable(house, tmp_path):
    tuning.tuned(load_config(None), tiny_model())
    (kept,) = (tmp_path / "cache" / "machine").glob("step-*.json")
    found = json.loads(kept.read_text())
    assert found["attention"] == "sdpa"
    assert found["made_by"]["network"] == "LlamaForCausalLM"
