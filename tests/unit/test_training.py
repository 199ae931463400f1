"""The loop on a tiny model: it learns, resumes bit for bit, and stops where it has to."""

import json
import math
import time
from pathlib import Path

import pytest
import torch

from softguard.adapters import SoftPrompt, SoftPromptConfig
from softguard.core import Conversation
from softguard.core.head import Head
from softguard.errors import DataError, TrainingError
from softguard.objectives import OBJECTIVES, Branch, ObjectiveInput
from softguard.objectives.decision_split import DecisionSplit, DecisionSplitConfig
from softguard.registry import config_class
from softguard.teacher import GuardedSystem, TeacherCache, TeacherSettings
from softguard.training import Example, TrainingConfig, loop, train
from softguard.training.loop import diverged
from softguard.training.validation import auc as validation_auc
from softguard.training.validation import validate
from tests.fakes import KeywordGuard, tiny_model

CONFIG = TrainingConfig(steps=12, batch_size=4, learning_rate=0.3, validate_every=4, warmup_steps=2)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    lm = tiny_model()
    teacher = GuardedSystem(lm, KeywordGuard("zz"))
    prompts = [f"zz{i}" for i in range(6)] + [f"aa{i}" for i in range(6)]
    cache = TeacherCache(
        tmp_path_factory.mktemp("cache"), teacher, TeacherSettings(max_new_tokens=6), shard_size=5, refusal_log_probs=True
    )
    conversations = [Conversation.from_prompt(p) for p in prompts]
    records = cache.records(prompts, conversations)
    examples = [
        Example(teacher.renderer.render(c), r, r.id.startswith("zz"), c) for c, r in zip(conversations, records, strict=True)
    ]
    refusal = [*teacher.renderer.encode_response("Sorry."), lm.turn_end_id]
    return lm, examples, refusal


def run(world, folder: Path, config=CONFIG, objective=None, progress=None, validating=None):
    lm, examples, refusal = world
    adapter = SoftPrompt.create(SoftPromptConfig(num_virtual_tokens=4), lm, 0)
    objective = objective or DecisionSplit(DecisionSplitConfig(ranking_weight=0.5))
    prompts = [e.prompt for e in examples]
    validation = (prompts[:6], prompts[6:], examples[6:])
    weigher = GuardedSystem(lm, KeywordGuard("zz"))
    told = (progress, weigher, validating)
    return adapter, train(lm, adapter, objective, examples, validation, refusal, config, folder, *told)


def test_it_learns_to_tell_the_two_apart(world, tmp_path):
    _, result = run(world, tmp_path, CONFIG.model_copy(update={"steps": 40}))
    first, last = result.history[0], result.history[-1]
    assert last["loss"] < first["loss"]
    assert result.best.auc > 0.9
    assert {"gradient_norm", "nll_refusal_1", "nll_refusal_7", "nll_answer_6"} <= set(first)
    assert not {"nll_refusal_8", "nll_answer_7", "nll_answer_later"} & set(first)  # nothing is that long here


class Stop(Exception):
    pass


def test_same_seed_same_bits_and_a_kill_changes_nothing(world, tmp_path):
    whole, result = run(world, tmp_path / "a")
    again, _ = run(world, tmp_path / "b")
    assert torch.equal(whole.virtual_tokens(), again.virtual_tokens())

    def kill(step, steps, figures):
        if step == 7:
            raise Stop

    with pytest.raises(Stop):
        run(world, tmp_path / "c", progress=kill)
    resumed, resumed_result = run(world, tmp_path / "c")
    assert torch.equal(whole.virtual_tokens(), resumed.virtual_tokens())
    assert [r["loss"] for r in result.history] == [r["loss"] for r in resumed_result.history]
    assert resumed_result.best == result.best


def test_the_best_validation_keeps_its_scores(world, tmp_path):
    best = run(world, tmp_path, CONFIG.model_copy(update={"steps": 4}))[1].best
    assert (len(best.harmful_s), len(best.look_alike_s)) == (6, 6)
    assert validation_auc(best.harmful_s, best.look_alike_s) == best.auc
    assert "harmful_s" not in (tmp_path / "metrics.jsonl").read_text()


def test_a_validation_says_how_far_it_is(world, tmp_path):
    told = []
    config = CONFIG.model_copy(update={"steps": 4, "validate_every": 2})
    run(world, tmp_path, config, validating=lambda *given: told.append(given))
    for step in (2, 4):
        done = [given[1:] for given in told if given[0] == step]
        assert done == sorted(done)
        assert done[-1] == (18, 18)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_takes_two_steps(world, tmp_path, name):
    factory = OBJECTIVES.get(name)
    objective = factory(config_class(factory)(kind=name))
    _, result = run(world, tmp_path, CONFIG.model_copy(update={"steps": 2, "validate_every": 2}), objective)
    assert len(result.history) == 2


def test_one_kind_of_prompt_is_an_error(world, tmp_path):
    lm, examples, refusal = world
    with pytest.raises(DataError, match="harmful and benign"):
        run((lm, examples[:6], refusal), tmp_path)


def test_a_loss_that_is_not_finite_stops_and_names_the_step(world, tmp_path):
    class Diverging(DecisionSplit):
        def __call__(self, batch):
            output = super().__call__(batch)
            return type(output)(output.loss * float("nan"), output.metrics)

    with pytest.raises(TrainingError, match=r"step 1, batch of zz\d, zz\d, aa\d, aa\d; .* no checkpoint"):
        run(world, tmp_path, objective=Diverging(DecisionSplitConfig()))


class Scaled(DecisionSplit):
    """The loss times a factor of the number of its call, from 1."""

    def __init__(self, factor):
        super().__init__(DecisionSplitConfig())
        self._factor, self._calls = factor, 0

    def __call__(self, batch):
        self._calls += 1
        output = super().__call__(batch)
        return type(output)(output.loss * self._factor(self._calls), output.metrics)


@pytest.mark.parametrize(("factor", "step"), [(lambda n: 1 if n < 7 else float("inf"), 7), (lambda n: 1 if n <= 20 else 1e4, 40)])
def test_what_led_to_a_stop_is_written_and_the_checkpoints_are_named(world, tmp_path, factor, step):
    config = CONFIG.model_copy(update={"steps": 60})
    with pytest.raises(TrainingError, match=rf"step {step}, .*latest\.safetensors and .*best\.safetensors"):
        run(world, tmp_path, config, Scaled(factor))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == list(range(1, step + 1))
    assert all(r["loss"] is not None for r in rows[:-1])


def test_divergence_is_a_loss_that_stays_high():
    falling = [10.0 / (1 + i) for i in range(60)]
    assert not any(diverged(falling[:n]) for n in range(61))
    assert not diverged([*falling, *[100.0] * 19])
    assert diverged([*falling, *[100.0] * 20])
    assert not diverged([*falling, *[100.0] * 19, 0.3])
    assert not diverged([*[1e-4] * 30, *[0.1] * 30])  # noise around nothing
    assert not diverged([*[-5.0] * 30, *[0.0] * 30])  # kl_disp goes below 0


def test_seconds_hold_validation_and_absent_figures_are_no_zeros(world, tmp_path, monkeypatch):
    def slow(*arguments):
        time.sleep(0.2)
        return validate(*arguments)

    class Sometimes(Scaled):
        def __call__(self, batch):
            output = super().__call__(batch)
            return type(output)(output.loss, {"rare": 3.0} if self._calls % 2 else {})

    monkeypatch.setattr(loop, "validate", slow)
    config = CONFIG.model_copy(update={"steps": 2, "validate_every": 1, "accumulation": 2})
    _, result = run(world, tmp_path, config, Sometimes(lambda n: 1))
    assert result.seconds >= 0.4
    assert [r["rare"] for r in result.history] == [3.0, 3.0]


def test_likelihood_is_logged_by_position():
    position = torch.tensor([0, 1, 8, 9, 0])
    head = Head(torch.eye(4))  # states are logits then
    branch = Branch(head, torch.zeros(5, 4), torch.zeros(5, dtype=torch.long), torch.tensor([0, 0, 0, 0, 1]), position)
    branch.states[2, 0] = 1.0
    empty = Branch(head, *(x[:0] for x in (branch.states, branch.targets, branch.row, branch.position)))
    given = ObjectiveInput(torch.ones(2), branch, empty, torch.zeros(2, 4), torch.zeros(2, 4), 0)
    logged = loop.nll_by_position(given)
    assert set(logged) == {"nll_answer_1", "nll_answer_2", "nll_answer_later"}
    assert logged["nll_answer_1"] == pytest.approx(math.log(4))
    assert logged["nll_answer_later"] == pytest.approx((math.log(4) + math.log(3 + math.e) - 1) / 2)
