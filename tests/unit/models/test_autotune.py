"""What is chosen by measurement: the first candidate unless another is clearly faster; once, and the model stays as it was."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from softguard.errors import CompatibilityError
from softguard.models import autotune, hardware, response_states, tune, use_kernel
from softguard.models.attention import attention_for, kernels_for
from softguard.models.autotune import Candidate
from tests.fakes import tiny_model

SAME = torch.ones(4)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOFTGUARD_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    """Steps that take what `clock.seconds` says of (kernel, threads), 1 by default, on a machine of four cores."""

    found = SimpleNamespace(seconds={}, states={}, taken=[])

    def step(lm, candidate):
        key = (candidate.attention, candidate.threads)
        found.taken.append(key)
        if isinstance(failure := found.seconds.get(key), Exception):
            raise failure
        return found.seconds.get(key, 1.0), found.states.get(candidate.attention, SAME)

    monkeypatch.setattr(autotune, "_timed_step", step)
    monkeypatch.setattr(autotune, "thread_counts", lambda: (2, 4, 1))
    return found


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({}, ("grouped", 2)),
        ({("sdpa", 2): 0.95, ("grouped", 4): 0.95}, ("grouped", 2)),  # noise changes nothing
        ({("sdpa", 2): 0.5, ("sdpa", 4): 0.5, ("sdpa", 1): 0.5}, ("sdpa", 2)),
        ({("sdpa", 2): 0.5, ("eager", 2): 0.4, ("eager", 1): 0.3}, ("eager", 1)),
        ({("grouped", 4): 0.6}, ("grouped", 4)),
        ({("sdpa", 2): 10.0, ("grouped", 1): 10.0}, ("grouped", 2)),
        ({("grouped", 2): CompatibilityError("a", "b", "c")}, ("eager", 2)),
        ({("sdpa", 2): ValueError("no such kernel"), ("eager", 2): 2.0}, ("grouped", 2)),
    ],
)
def test_another_is_chosen_where_it_is_clearly_faster(clock, seconds, chosen):
    clock.seconds = seconds
    if ("grouped", 2) in seconds:
        clock.seconds |= {("grouped", n): seconds["grouped", 2] for n in (4, 1)}
    found = tune(tiny_model())
    assert (found.attention, found.threads) == chosen
    assert {t.attention for t in found.trials} == {"grouped", "eager", "sdpa", "fused"}
    assert {t.threads for t in found.trials if t.attention == found.attention} == {1, 2, 4}


def test_what_was_left_out_says_why(clock, monkeypatch):
    clock.seconds = {("sdpa", 2): ValueError("no such kernel")}
    clock.states = {"eager": -SAME}
    trials = {t.attention: t for t in tune(tiny_model()).trials if t.threads == 2}
    assert (trials["sdpa"].seconds, trials["sdpa"].note) == (None, "ValueError: no such kernel")
    assert trials["eager"].seconds is None
    assert trials["eager"].note == "its states are 2 away from those of grouped"
    assert (trials["grouped"].seconds, trials["grouped"].note) == (1.0, "")
    monkeypatch.setattr(autotune, "SECONDS", -1.0)
    late = tune(tiny_model(), again=True)
    assert (late.attention, late.threads) == ("grouped", 2)
    assert {t.note for t in late.trials if t.attention == "sdpa"} == {"no time was left"}


def test_a_candidate_that_is_far_behind_is_timed_once(clock):
    clock.seconds = {("sdpa", 2): 3.5}
    found = tune(tiny_model())
    assert clock.taken.count(("sdpa", 2)) == 1
    assert next(t for t in found.trials if t.attention == "sdpa").note == "the first step alone"


def test_what_was_measured_is_remembered_for_models_of_a_shape(clock, empty_cache):
    clock.seconds = {("sdpa", 2): 0.5, ("sdpa", 1): 0.5, ("sdpa", 4): 0.5}
    first, count = tune(tiny_model()), len(clock.taken)
    assert tune(tiny_model(seed=1)) == first
    assert len(clock.taken) == count
    (kept,) = (empty_cache / "machine").glob("step-*.json")
    assert json.loads(kept.read_text())["trials"][0] == {"attention": "grouped", "threads": 2, "seconds": 1.0, "note": ""}
    tune(tiny_model("qwen2"))
    tune(tiny_model(dtype=torch.bfloat16))
    assert len(list((empty_cache / "machine").glob("step-*.json"))) == 3
    clock.seconds = {}
    assert tune(tiny_model(), again=True).attention == "grouped"
    assert tune(tiny_model()).attention == "grouped"


def test_what_is_given_is_not_measured(clock):
    found = tune(tiny_model(), "eager", 3)
    assert (found.attention, found.threads, found.trials, clock.taken) == ("eager", 3, (), [])
    tune(tiny_model(), "sdpa")
    assert {kernel for kernel, _ in clock.taken} == {"sdpa"}
    clock.taken.clear()
    tune(tiny_model(), threads=3)
    assert {threads for _, threads in clock.taken} == {3}


def test_progress_ends_whatever_was_left_out(clock):
    told = []
    clock.seconds = {("sdpa", 2): 9.0, ("eager", 2): ValueError("none")}
    tune(tiny_model(), progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (32, 32)
    assert sorted(told) == told


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma2", "gemma3", "mistral", "phi3", "gpt2"])
def test_the_step_is_of_the_model_itself_which_stays_as_it_was(kind, monkeypatch):
    monkeypatch.setattr(autotune, "ROUNDS", 1)
    lm = tiny_model(kind)
    before = (lm.attention, torch.get_num_threads(), lm.network.config.to_dict(), len(lm.blocks))
    prompts, responses = [[5, 6, 7], [8, 9]], [[1, 2], [3]]
    states = response_states(lm, prompts, responses).states
    found = tune(lm)
    assert (lm.attention, torch.get_num_threads(), lm.network.config.to_dict(), len(lm.blocks)) == before
    assert torch.equal(response_states(lm, prompts, responses).states, states)
    assert found.attention in kernels_for(lm.network.config)
    assert [t.note for t in found.trials if t.seconds is None] == []  # every kernel that is offered gives the model's numbers


def test_the_first_blocks_show_each_kind_of_layer():
    lm = tiny_model("gemma3")
    lm.network.config.layer_types = ["sliding_attention", "full_attention"]
    with autotune._first_blocks(lm) as blocks:
        assert blocks == 2
    alike = tiny_model()
    alike.network.model.layers.extend([tiny_model().network.model.layers[0]] * 2)
    alike.network.config.num_hidden_layers = 4
    with autotune._first_blocks(alike) as blocks:
        assert (blocks, len(alike.blocks), len(alike.network.model.layers)) == (2, 2, 2)
    assert len(alike.blocks) == 4
    with pytest.raises(KeyError), autotune._first_blocks(alike):
        raise KeyError
    assert len(alike.blocks) == 4


def test_a_model_of_short_context_is_not_measured(clock):
    lm = tiny_model()
    lm.network.config.max_position_embeddings = 100
    assert (tune(lm).trials, clock.taken) == ((), [])


def test_the_fused_kernel_is_not_offered_where_it_would_be_another_model():
    assert kernels_for(tiny_model("gemma2").network.config) == ("grouped", "eager")
    assert kernels_for(tiny_model("gpt2").network.config) == ("grouped", "sdpa")
    assert kernels_for(tiny_model().network.config) == ("grouped", "eager", "sdpa", "fused")
    with pytest.raises(CompatibilityError, match="leaves out the soft cap"):
        attention_for(tiny_model("gemma2").network.config, "sdpa")
    lm = tiny_model()
    use_kernel(lm.network, "sdpa")
    assert lm.attention == "sdpa"


def test_a_step_is_timed_with_the_candidate_in_place():
    lm, before = tiny_model(), torch.get_num_threads()
    try:
        seconds, states = autotune._timed_step(lm, Candidate("eager", 1))
        assert (lm.attention, torch.get_num_threads()) == ("eager", 1)
    finally:
        torch.set_num_threads(before)
    assert seconds > 0
    assert states.shape == (8 * 60, lm.width)
    assert not states.requires_grad


@pytest.mark.parametrize(
    ("given", "quota", "allowed", "counts"),
    [("", "max 100000", 8, (4, 8, 1)), ("2", "max 100000", 8, (2, 1)), ("", "150000 100000", 8, (2, 1)), ("1", "", 8, (1,))],
)
def test_the_numbers_of_threads_worth_trying(monkeypatch, given, quota, allowed, counts):
    def text(path):
        number = int("".join(c for c in path.parts[-3] if c.isdigit())) if "topology" in str(path) else 0
        return quota if path.name == "cpu.max" else f"{number // 2 * 2}-{number // 2 * 2 + 1}\n"

    class Machine(type(Path())):
        def exists(self):
            return self.name != "cpu.max" or bool(quota)

        def read_text(self):
            return text(self)

    monkeypatch.setattr(hardware, "Path", Machine)
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda pid: set(range(allowed)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert hardware.thread_counts() == counts
