"""Any objective with any adapter on any architecture: the one loop takes a step, and moves what learns.

Each pair of objective and adapter meets the plain architecture and one more. Which one goes round, so that each objective and
each adapter meets every architecture: biases, windows shorter than the prompts, soft caps, learned positions and transposed
weights, 4-bit layers.
"""

import math
from functools import cache
from importlib.util import find_spec

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
OTHERS = ["qwen2", "gemma2", "gemma3", "gpt2", "llama-nf4"]
MET = {
    (objective, adapter): ("llama", OTHERS[(i + j) % len(OTHERS)])
    for i, objective in enumerate(OBJECTIVES)
    for j, adapter in enumerate(TRAINED)
}
lacks_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Gives the teacher of an architecture, examples of it and the refusal."""

    @cache
    def made_of(kind):
        lm = tiny_model(kind, window=24)
        teacher = GuardedSystem(lm, KeywordGuard("zz"), "Sorry.")
        conversations = [Conversation.from_prompt(p) for p in PROMPTS]
        settings = TeacherSettings(max_new_tokens=3)
        drafts = TeacherCache(tmp_path_factory.mktemp("cache"), teacher, settings, refusal_log_probs=True)
        records = drafts.records(PROMPTS, conversations)
        prompts = [teacher.renderer.render(c) for c in conversations]
        assert all(len(p.ids) > 24 for p in prompts)
        examples = [Example(p, r, r.id.startswith("zz"), c) for p, r, c in zip(prompts, records, conversations, strict=True)]
        return teacher, examples, [*teacher.renderer.encode_response("Sorry."), lm.turn_end_id]

    return made_of


def test_what_is_trained_is_not_fitted():
    assert {"soft_prompt", "lora", "kv_prefix", "steering_vector"} <= set(TRAINED)
    assert not any(isinstance(adapter_of(n, tiny_model()), Fitted) for n in TRAINED)


def test_each_objective_and_each_adapter_meets_every_architecture():
    for place, names in ((0, OBJECTIVES), (1, TRAINED)):
        for name in names:
            assert {kind for pair, kinds in MET.items() if pair[place] == name for kind in kinds} == {"llama", *OTHERS}, name


@pytest.mark.parametrize(
    ("kind", "adapter", "objective"),
    [
        pytest.param(kind, adapter, objective, marks=[lacks_bitsandbytes] if "nf4" in kind else [])
        for (objective, adapter), kinds in MET.items()
        for kind in kinds
    ],
)
def test_the_loop_takes_a_step_with_each_pair(world, tmp_path, kind, adapter, objective):
    teacher, examples, refusal = world(kind)
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
