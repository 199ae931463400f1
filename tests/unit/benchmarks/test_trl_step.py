"""TRL's trainers take the step that ours takes: the same loss on the same ids with the same LoRA."""

import pytest
import torch

from benchmarks.speed import trl_step
from benchmarks.speed.training_step import examples, ids, our_step, teacher_states
from tests.fakes import tiny_model

RESPONSE = 8
GIVEN = ids(3, 24, 256)


def test_what_is_missing_is_named():
    reason = trl_step.missing(("json", "no_such_package"))
    assert "no_such_package" in reason
    assert "json" not in reason
    assert trl_step.missing(("json",)) is None


def test_the_faster_trainer_is_compared():
    seconds = {"trl_gkd_fp32": [8.0, 9.0], "trl_distillation_fp32": [5.0, 6.0], "softguard_lora_fp32": [2.0, 2.0]}
    found = trl_step.comparison(seconds, "fp32", None)
    assert found["ratio_vs_trl"] == 2.75
    assert found["trl"]["trainer"] == "trl_distillation_fp32"
    assert found["trl"]["adapter"] == "lora"


def test_without_it_there_is_no_ratio_and_a_reason():
    assert trl_step.comparison({}, "fp32", "not installed: trl") == {"ratio_vs_trl": None, "trl": "not installed: trl"}


def random_lora(lm):
    adapter = trl_step.lora(lm)
    g = torch.Generator().manual_seed(1)
    for parameter in adapter.parameters():
        parameter.data = torch.randn(parameter.shape, generator=g)
    return adapter


def put(adapter, student):
    for name, (a, b) in adapter.pairs().items():
        layer = student.get_submodule(name)
        layer.lora_A["default"].weight.data = a.detach().clone()
        layer.lora_B["default"].weight.data = b.detach().clone()


@pytest.mark.parametrize("make", [trl_step.gkd_step, trl_step.distillation_step])
def test_the_loss_is_ours_and_the_step_moves_the_lora_alone(make):
    pytest.importorskip("trl")
    lm, student = tiny_model(), tiny_model().network
    adapter = random_lora(lm)
    step = make(student, tiny_model().network, lm.tokenizer, GIVEN, RESPONSE)
    put(adapter, student)
    expected = our_step(lm, adapter)(examples(GIVEN, teacher_states(lm, GIVEN, RESPONSE), RESPONSE))["loss"] / RESPONSE
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    assert step() == pytest.approx(expected, rel=2e-2)  # the teacher's states are kept in bf16
    moved = {name for name, p in student.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "lora_" in name}


def test_the_mainline_trainer_refuses_a_soft_prompt(monkeypatch):
    pytest.importorskip("trl")
    from peft import PromptTuningConfig

    monkeypatch.setattr(trl_step, "_peft", lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    network, other = tiny_model().network, tiny_model().network
    with pytest.raises(ValueError, match="not supported"):
        trl_step.distillation_step(network, other, tiny_model().tokenizer, GIVEN, RESPONSE)


def test_the_experimental_trainer_stops_at_a_soft_prompt(monkeypatch):
    pytest.importorskip("trl")
    from peft import PromptTuningConfig

    monkeypatch.setattr(trl_step, "_peft", lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    step = trl_step.gkd_step(tiny_model().network, tiny_model().network, tiny_model().tokenizer, GIVEN, RESPONSE)
    with pytest.raises(RuntimeError, match=r"size of tensor|shape"):
        step()
