"""Any objective with any adapter: the one loop takes a step with each pair, and moves what learns."""

import math

import pytest
import torch

from softguard.adapters import ADAPTERS, Fitted
from softguard.core import Conversation, Verdict
from softguard.objectives import OBJECTIVES
from softguard.registry import config_class
from softguard.teacher import GuardedSystem, TeacherCache, TeacherSettings
from softguard.training import Example, TrainingConfig, train
from tests.fakes import KeywordGuard, tiny_model

CONFIG = TrainingConfig(steps=1, batch_size=4, learning_rate=0.05, warmup_steps=0, on_policy_tokens=3)
SIZES = {"soft_prompt": {"num_virtual_tokens": 3}, "kv_prefix": {"num_positions": 3}, "steering_vector": {"layer": 0}}
PROMPTS = [f"zz{i}" for i in range(3)] + [f"aa{i}" for i in range(3)]


class LengthGuard(KeywordGuard):
    """Soft: of different answers each is safe to another degree, so that there is something to gain."""

    def judge(self, conversations):
        return [Verdict(p_safe=sum(c.response.encode()) % 97 / 97) for c in conversations]


def made(registry, name, **settings):
    return config_class(registry.get(name))(kind=name, **settings)


def adapter_of(name, lm):
    return ADAPTERS.get(name).create(made(ADAPTERS, name, **SIZES.get(name, {})), lm, 0)


TRAINED = [n for n in ADAPTERS if not isinstance(ADAPTERS.get(n), type) or not hasattr(ADAPTERS.get(n), "fit")]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    lm = tiny_model()
    teacher = GuardedSystem(lm, KeywordGuard("zz"), "Sorry.")
    conversations = [Conversation.from_prompt(p) for p in PROMPTS]
    cache = TeacherCache(tmp_path_factory.mktemp("cache"), teacher, TeacherSettings(max_new_tokens=3), refusal_log_probs=True)
    records = cache.records(PROMPTS, conversations)
    render = teacher.renderer.render
    examples = [Example(render(c), r, r.id.startswith("zz"), c) for c, r in zip(conversations, records, strict=True)]
    return teacher, examples, [*teacher.renderer.encode_response("Sorry."), lm.turn_end_id]


def test_what_is_trained_is_not_fitted():
    assert {"soft_prompt", "lora", "kv_prefix", "steering_vector"} <= set(TRAINED)
    assert not any(isinstance(adapter_of(n, tiny_model()), Fitted) for n in TRAINED)


@pytest.mark.parametrize("objective", list(OBJECTIVES))
@pytest.mark.parametrize("adapter", TRAINED)
def test_the_loop_takes_a_step_with_each_pair(world, tmp_path, adapter, objective):
    teacher, examples, refusal = world
    prompts = [e.prompt for e in examples]
    learned = adapter_of(adapter, teacher.lm)
    before = [p.detach().clone() for p in learned.parameters()]
    weights = {k: v.clone() for k, v in teacher.lm.network.state_dict().items()}
    loss = OBJECTIVES.get(objective)(made(OBJECTIVES, objective))
    fraction = 0.5 if "sequence" in loss.needs else 0.0
    config = CONFIG.model_copy(update={"on_policy_fraction": fraction})
    validation = (prompts[:3], prompts[3:], examples[3:])
    weigher = GuardedSystem(teacher.lm, LengthGuard(), "Sorry.")
    result = train(teacher.lm, learned, loss, examples, validation, refusal, config, tmp_path, None, weigher)
    assert math.isfinite(result.history[0]["loss"])
    assert any(not torch.equal(a, b) for a, b in zip(before, learned.parameters(), strict=True))
    assert all(torch.equal(v, weights[k]) for k, v in teacher.lm.network.state_dict().items())
