"""The loop on a tiny model: it learns, resumes bit for bit, and stops where it has to."""

from pathlib import Path

import pytest
import torch

from softguard.adapters import SoftPrompt, SoftPromptConfig
from softguard.core import Conversation
from softguard.errors import DataError, TrainingError
from softguard.objectives import OBJECTIVES
from softguard.objectives.decision_split import DecisionSplit, DecisionSplitConfig
from softguard.objectives.dense import DenseConfig
from softguard.objectives.sequence import SequenceConfig
from softguard.teacher import GuardedSystem, TeacherCache, TeacherSettings
from softguard.training import Example, TrainingConfig, train
from tests.fakes import KeywordGuard, tiny_model

CONFIG = TrainingConfig(steps=12, batch_size=4, learning_rate=0.3, validate_every=4, warmup_steps=2)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    lm = tiny_model()
    teacher = GuardedSystem(lm, KeywordGuard("zz"))
    prompts = [f"zz{i}" for i in range(6)] + [f"aa{i}" for i in range(6)]
    cache = TeacherCache(tmp_path_factory.mktemp("cache"), teacher, TeacherSettings(max_new_tokens=6), shard_size=5)
    conversations = [Conversation.from_prompt(p) for p in prompts]
    records = cache.records(prompts, conversations)
    examples = [
        Example(teacher.renderer.render(c), r, r.id.startswith("zz")) for c, r in zip(conversations, records, strict=True)
    ]
    refusal = [*teacher.renderer.encode_response("Sorry."), lm.turn_end_id]
    return lm, examples, refusal


def run(world, folder: Path, config=CONFIG, objective=None, progress=None):
    lm, examples, refusal = world
    adapter = SoftPrompt.create(SoftPromptConfig(num_virtual_tokens=4), lm, 0)
    objective = objective or DecisionSplit(DecisionSplitConfig(ranking_weight=0.5))
    validation = (examples[:6], examples[6:], examples[6:])
    return adapter, train(lm, adapter, objective, examples, validation, refusal, config, folder, progress)


def test_it_learns_to_tell_the_two_apart(world, tmp_path):
    _, result = run(world, tmp_path, CONFIG.model_copy(update={"steps": 40}))
    first, last = result.history[0], result.history[-1]
    assert last["loss"] < first["loss"]
    assert result.best.auc > 0.9
    assert {"gradient_norm", "nll_refusal_1", "nll_answer_later"} <= set(first)


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


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_takes_two_steps(world, tmp_path, name):
    configs = {"decision_split": DecisionSplitConfig(), "tv_disp": SequenceConfig(), "kl_disp": SequenceConfig()}
    objective = OBJECTIVES.get(name)(configs.get(name) or DenseConfig(kind=name))
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

    with pytest.raises(TrainingError, match="step 1"):
        run(world, tmp_path, objective=Diverging(DecisionSplitConfig()))
