"""What a dry run says of memory: counted from a configuration alone, and unknown where that is not here."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from softguard.costs import ModelShape
from softguard.models import read_config
from softguard.recipes.config import load_config
from softguard.recipes.memory_plan import memory_lines, memory_plan
from softguard.recipes.prompts import run_prompts
from softguard.sources import resolve
from tests.fakes import tiny_model
from tests.tiny_gguf import write_tiny_gguf


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder whose weights are no weights: they are not to be read."""
    path = tmp_path_factory.mktemp("tiny")
    tiny_model("llama").network.config.save_pretrained(path)
    save_file({"x": torch.zeros(1)}, path / "model.safetensors")
    return path


def config(folder: Path, *settings: str):
    return load_config(None, [f"model.name={folder}", "model.dtype=float32", "teacher.guard=keyword", *settings])


def test_weights_guard_and_drafts_are_counted(folder):
    plan = memory_plan(config(folder))
    shape = ModelShape.of(tiny_model("llama").network)
    assert plan.base == 4 * shape.parameters
    assert memory_plan(config(folder, "model.dtype=bfloat16")).base == 2 * shape.parameters
    packed = memory_plan(config(folder, "model.quantisation=nf4"))
    assert packed.base == round(shape.body_weights * 0.5625) + 4 * (shape.parameters - shape.body_weights)
    assert "nf4 and float32" in memory_lines(config(folder, "model.quantisation=nf4"))[0]
    rows = len(run_prompts(config(folder).data, None).train) + 32
    assert plan.drafts == rows * 48 * shape.width * 2
    assert plan.guard == 0
    assert plan.peak > plan.base + plan.drafts + max(plan.sampling, plan.step)
    assert memory_plan(config(folder, "teacher.guard=mini")).guard == 91_607_178


@pytest.mark.parametrize(
    ("setting", "grows", "same"),
    [
        ("training.batch_size=32", "step", ("sampling", "drafts", "base")),
        ("teacher.max_new_tokens=96", "sampling", ("base",)),
        ("adapter.num_virtual_tokens=320", "step", ("sampling", "drafts")),
        ("adapter={kind='refusal_gate',soft_prompt={num_virtual_tokens=320}}", "step", ("sampling", "drafts")),
        ("data.sets=['softguard','softguard_tasks','cast:60']", "drafts", ("sampling", "step")),
    ],
)
def test_what_grows_with_what(folder, setting, grows, same):
    before, after = memory_plan(config(folder)), memory_plan(config(folder, setting))
    assert getattr(after, grows) > getattr(before, grows)
    assert all(getattr(after, name) == getattr(before, name) for name in same)


def test_passes_that_follow_one_another_take_no_more(folder):
    assert memory_plan(config(folder, "training.accumulation=8")) == memory_plan(config(folder))


def test_positions_are_those_of_the_settings(folder):
    front = memory_plan(config(folder)).rows
    placed = "adapter.placement=[{slot='front',count=24},{slot='after_user',count=5},{slot='after_header',count=3}]"
    behind = memory_plan(config(folder, placed)).rows
    assert (front.shared - behind.shared, behind.positions - front.positions) == (8, 8)
    short = memory_plan(config(folder, "objective.answer_tokens=16")).rows
    assert front.positions - short.positions == 48 - 16


def test_an_adapter_that_is_fitted_takes_no_steps(folder):
    fitted = config(folder, "adapter.kind=difference_of_means")
    assert memory_plan(fitted).step == 0
    assert "while a step" not in "\n".join(memory_lines(fitted))


def test_in_words(folder):
    lines = memory_lines(config(folder, "data.sets=['softguard','cast','catqa:60']"))
    plan = memory_plan(config(folder, "data.sets=['softguard','cast','catqa:60']"))
    assert lines[0].startswith("needs about ")
    assert "in float32, guard 0 MiB" in lines[0]
    assert "(without those of cast, which are not counted here)" in lines[0]
    assert f"16 prompts, {plan.rows.positions} positions each" in lines[1]
    assert re.search(r"about \d+(\.\d+)? [MG]iB while 128 drafts are sampled, \d+(\.\d+)? [MG]iB while a step is taken", lines[1])
    assert lines[2].startswith("Counted from the model's shape, about")


def test_what_is_not_here_is_not_fetched(folder, monkeypatch):
    monkeypatch.delenv("SOFTGUARD_OFFLINE", raising=False)
    (line,) = memory_lines(load_config(None, ["model.name=hf:softguard-tests/no-such-model"]))
    assert line.startswith("its memory is not known until the model is fetched: ")
    guard = "teacher.guard=llama-guard-3-8b@hf:softguard-tests/no-such-guard"
    assert "a guard whose size is not known until it is fetched" in memory_lines(config(folder, guard))[0]
    server = "teacher.guard=llama-guard-3-8b@http://localhost:1/v1"
    assert memory_plan(config(folder, server)).guard == 0


def test_a_gguf_file_says_its_shape_before_it_is_dequantised(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTGUARD_CACHE", str(tmp_path / "cache"))
    source = resolve(str(write_tiny_gguf(tmp_path / "tiny.gguf")))
    fields = read_config(source)
    assert (fields["model_type"], fields["hidden_size"], fields["num_hidden_layers"]) == ("llama", 32, 2)
    assert memory_plan(config(source.path)).base == 4 * ModelShape.from_config(fields).parameters
    assert not (tmp_path / "cache" / "dequantised").exists()
