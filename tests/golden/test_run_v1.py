"""A run directory of schema 1 still loads, with the numbers that were written."""

import json
import shutil

import pytest
import torch

from softguard.adapters import SoftPrompt
from softguard.core import Conversation
from softguard.errors import CompatibilityError, RunError
from softguard.evaluation.results import EvaluationSummary
from softguard.models import ChatRenderer
from softguard.recipes.compare import compare_runs
from softguard.recipes.config import validate_config
from softguard.reports import render_html, render_markdown
from softguard.runs import RunDir
from tests.fakes import tiny_model
from tests.golden.make_golden import RUN_V1, THRESHOLD, make, summary, weight


def test_the_run_opens_whole():
    run = RunDir.open(RUN_V1)
    assert run.stages() == ["train", "evaluate"]
    assert json.loads((RUN_V1 / "manifest.json").read_text())["schema_version"] == 1
    assert json.loads((RUN_V1 / "operating_point.json").read_text())["threshold"] == THRESHOLD


def test_the_config_is_still_valid():
    config = validate_config(RunDir(RUN_V1).config)
    assert config.model.name == "tiny-llama"
    assert config.adapter.layout == (("front", 3), ("after_user", 1))
    assert config.training.learning_rate == 0.015  # what the run had, whatever the default is today


def test_the_soft_prompt_has_its_numbers_and_its_places():
    adapter, lm = SoftPrompt.load(RUN_V1 / "adapter"), tiny_model("llama")
    assert torch.equal(adapter.virtual_tokens(), weight())
    assert (adapter.num_parameters, adapter.num_prefix_positions) == (128, 4)
    with adapter.attach(lm):
        ids = adapter.extend(ChatRenderer(lm.tokenizer).render(Conversation.from_prompt("hi")))
    assert ids[:3] == [-1, -2, -3]
    header = "<|im_start|>assistant\n"
    assert lm.tokenizer.decode([i for i in ids if i >= 0]).endswith(header)
    assert ids[-len(lm.tokenizer(header, add_special_tokens=False)["input_ids"]) - 1] == -4
    with pytest.raises(CompatibilityError, match="base model"), adapter.attach(tiny_model("llama", seed=1)):
        pass


def test_peft_reads_the_adapter_config():
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(str(RUN_V1 / "adapter"))
    assert (config.peft_type.value, config.num_virtual_tokens, config.token_dim) == ("PROMPT_TUNING", 4, 32)


def test_the_evaluation_is_read_compared_and_shown():
    read = EvaluationSummary.model_validate_json((RUN_V1 / "evaluations" / "test" / "summary.json").read_text())
    assert read.model_dump_json() == summary().model_dump_json()
    assert read.systems[1].metrics["refusal_rate"].value == 0.75
    assert read.systems[0].metrics["refusal_rate"].value is None  # unknown is not zero
    assert read.samples[1].prompt == "[redacted: 40 characters]"
    compared = compare_runs([RUN_V1])
    assert [row.system for row in compared.systems] == ["base", "student:run_v1"]
    for shown in (render_html(read), render_markdown(read)):
        assert "75.0" in shown
        assert "The Rhine." in shown


def test_todays_code_writes_what_the_script_says(tmp_path):
    run = make(tmp_path / "run")
    assert RunDir.open(run.path).stages() == RunDir.open(RUN_V1).stages()
    written = {str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file()}
    kept = {str(p.relative_to(RUN_V1)) for p in RUN_V1.rglob("*") if p.is_file()}
    assert written == kept - {"adapter/adapter_config.json"}  # once written for every layout, though PEFT cannot load this one
    name = "adapter/adapter_model.safetensors"
    assert (run.path / name).read_bytes() == (RUN_V1 / name).read_bytes()


@pytest.mark.parametrize("version", [2, 0, None, "1"])
def test_another_schema_is_refused(version, tmp_path):
    shutil.copytree(RUN_V1, tmp_path / "run")
    path = tmp_path / "run" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": version}))
    with pytest.raises(RunError, match="schema version 1"):
        RunDir.open(tmp_path / "run")
    with pytest.raises(RunError, match="schema version 1"):
        RunDir(tmp_path / "run").stages()


@pytest.mark.parametrize("name", ["adapter/adapter_model.safetensors", "config.toml", "evaluations/test/summary.json"])
def test_a_changed_file_is_refused(name, tmp_path):
    shutil.copytree(RUN_V1, tmp_path / "run")
    path = tmp_path / "run" / name
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(RunError, match=name):
        RunDir.open(tmp_path / "run")
