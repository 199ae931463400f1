"""A job is a teacher pass and epochs of steps; the usual one has the teacher in every step."""

import torch

from benchmarks.speed import whole_job
from benchmarks.speed.training_step import ids
from tests.fakes import tiny_model

GIVEN = ids(5, 20, 256)


def test_every_row_comes_once_in_an_epoch():
    parts = [part.tolist() for part in whole_job.batches(torch.arange(5), 2, 2)]
    assert parts == [[0, 1], [2, 3], [4]] * 2


def test_our_job_runs_the_teacher_once_and_the_steps_of_all_epochs(monkeypatch):
    passes, steps = [], []
    teacher, make = whole_job.teacher_states, whole_job.our_step

    def counted(lm, adapter):
        step = make(lm, adapter)
        return lambda batch: steps.append(step(batch)["loss"])

    monkeypatch.setattr(whole_job, "teacher_states", lambda *a: passes.append(1) or teacher(*a))
    monkeypatch.setattr(whole_job, "our_step", counted)
    whole_job.our_job(tiny_model(), GIVEN, 6, 4, 2, 3)
    assert len(passes) == 1
    assert len(steps) == 9
    assert all(loss >= 0 for loss in steps)


def test_the_usual_job_can_be_run_again_on_the_same_model():
    network = tiny_model().network
    before = {name: p.clone() for name, p in network.named_parameters()}
    for _ in range(2):
        whole_job.usual_job(network, GIVEN, 6, 4, 2, 1)
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())


def test_ratios_are_of_jobs_with_the_same_epochs():
    seconds = {"peft_fp32_epochs_1": [6.0], "softguard_fp32_epochs_1": [3.0], "peft_fp32_epochs_3": [18.0]}
    seconds["softguard_fp32_epochs_3"] = [6.0]
    found = whole_job.ratios(seconds, "fp32", [1, 3])
    assert found["ratio_vs_peft_fp32_epochs_1"] == found["ratio_vs_peft_same_dtype_epochs_1"] == 2.0
    assert found["ratio_vs_peft_fp32_epochs_3"] == 3.0
    assert found["ratio_vs_peft_bf16_epochs_1"] is None
