"""The refusal gate: what it leaves alone, where it starts, that it can be baked, that the loop teaches it."""

import copy
import tomllib

import pytest
import tomli_w
import torch
from torch import nn

from softguard.adapters.refusal_gate import RefusalGate, RefusalGateConfig
from softguard.adapters.soft_prompt import SoftPromptConfig
from softguard.core import Conversation, ReplySettings
from softguard.models import ChatRenderer, refusal_log_odds, response_states, sample
from softguard.objectives.decision_split import DecisionSplit, DecisionSplitConfig
from softguard.recipes.config import describe_settings, load_config, resolved, validate_config
from softguard.recipes.student import ModelSystem
from softguard.teacher import GuardedSystem, TeacherCache, TeacherSettings
from softguard.training import Example, TrainingConfig, train
from softguard.training.forward import objective_input
from softguard.training.validation import answer_drift, auc
from tests.fakes import KeywordGuard, tiny_model

KINDS = ["llama", "qwen2", "gemma2", "gemma3", "gpt2"]
WITH_PROMPT = RefusalGateConfig(soft_prompt=SoftPromptConfig(num_virtual_tokens=4))


def prompt(lm, text="hello"):
    return ChatRenderer(lm.tokenizer).render(Conversation.from_prompt(text))


def trained(lm, config=None, seed=1):
    gate = RefusalGate.create(config or RefusalGateConfig(), lm, 0)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in gate.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator)
    return gate


@pytest.mark.parametrize("kind", KINDS)
def test_given_that_it_does_not_fire_the_next_token_is_the_base_models(kind):
    lm = tiny_model(kind)
    ids, answer = list(prompt(lm).ids), [5, 6, 7]
    with trained(lm).attach(lm) as student:
        own = lm.head(response_states(student, [ids], [answer]).states)
    assert own.shape[1] == len(lm.embedding_weight) + 1
    base = lm.head(response_states(lm, [ids], [answer]).states)
    torch.testing.assert_close(own[:, :-1].log_softmax(-1), base.log_softmax(-1), atol=1e-5, rtol=1e-5)
    assert own.softmax(-1)[:, -1].max() > 1e-6  # and yet it may fire


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_start_it_is_no_likelier_than_a_token_on_the_mean(kind):
    lm = tiny_model(kind)
    gate = RefusalGate.create(RefusalGateConfig(), lm, 0)
    with gate.attach(lm) as student:
        states = response_states(student, [list(prompt(lm).ids)], [list(range(40))]).states
    if lm.output_head.softcap is None:  # a bound on logits bends their mean
        assert lm.head(states).softmax(-1)[:, -1].max() <= 1 / (1 + len(lm.embedding_weight)) + 1e-6
    assert lm.head(states).softmax(-1)[:, -1].max() < 0.02


@pytest.mark.parametrize("config", [RefusalGateConfig(), WITH_PROMPT], ids=["alone", "with a soft prompt"])
@pytest.mark.parametrize("kind", KINDS)
def test_its_rows_in_a_plain_vocabulary_are_the_same_model(kind, config):
    """As decision 0012 bakes virtual tokens: an unmodified network whose tables have the rows says what the student says."""
    lm = tiny_model(kind)
    gate = trained(lm, config)
    ids = gate.extend(prompt(lm))
    probe, trigger = (p.detach() for p in gate.parameters()[:2])
    rows = torch.cat([trigger[None], gate.virtual_tokens().detach() if config.soft_prompt else trigger[:0].view(0, lm.width)])
    one = torch.tensor([[5]])
    scale = (lm.embed(one)[0, 0] / lm.embedding_weight[5]).mean()  # Gemma's layer scales what it looks up
    table = torch.cat([lm.embedding_weight.detach(), rows / scale])
    head = torch.cat([lm.output_head.weight.detach(), probe[None]])  # rows of virtual tokens are never said: none here
    network = copy.deepcopy(lm.network)
    embedding, layer = network.get_input_embeddings(), nn.Linear(lm.width, len(head), bias=False)
    embedding.weight, layer.weight = nn.Parameter(table, requires_grad=False), nn.Parameter(head, requires_grad=False)
    network.config.tie_word_embeddings = False
    network.set_output_embeddings(layer)
    control = len(lm.embedding_weight)
    baked = torch.tensor([[i if i >= 0 else control - i for i in ids]])
    with gate.attach(lm) as student, torch.no_grad():
        made = sample(
            student, [ids], ["x"], max_new_tokens=6, temperature=0.0, seed=0, refusal_token=control,
            virtual_tokens=gate.virtual_tokens(),
        )[0]  # fmt: skip
        said = [control, 5, 6]
        own = lm.head(response_states(student, [ids], [said], gate.virtual_tokens()).states)
        full = torch.cat([baked, torch.tensor([said[:-1]])], 1)
        theirs = network(input_ids=full).logits[0, -3:]
        torch.testing.assert_close(own.log_softmax(-1), theirs.log_softmax(-1), atol=1e-4, rtol=1e-4)
        for token in made.ids:
            assert network(input_ids=baked).logits[0, -1].argmax() == token
            baked = torch.cat([baked, torch.tensor([[token]])], 1)


@pytest.mark.parametrize("asked", [[], ["adapter.soft_prompt.num_virtual_tokens=3"]])
def test_its_config_is_written_and_read_with_and_without_a_soft_prompt(asked):
    config = load_config(None, ["adapter.kind=refusal_gate", *asked])
    assert (config.adapter.soft_prompt is None) == (not asked)
    assert validate_config(tomllib.loads(tomli_w.dumps(resolved(config)))) == config
    known = {s.key: s.only_for for s in describe_settings("adapter.soft_prompt")}
    assert known["adapter.soft_prompt.num_virtual_tokens"] == ("refusal_gate",)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    lm = tiny_model()
    teacher = GuardedSystem(lm, KeywordGuard("zz"), "No.")
    prompts = [f"zz{i}" for i in range(6)] + [f"aa{i}" for i in range(6)]
    conversations = [Conversation.from_prompt(p) for p in prompts]
    cache = TeacherCache(tmp_path_factory.mktemp("cache"), teacher, TeacherSettings(max_new_tokens=4))
    records = cache.records(prompts, conversations)
    render = teacher.renderer.render
    examples = [Example(render(c), r, r.id.startswith("zz"), c) for c, r in zip(conversations, records, strict=True)]
    return teacher, examples


def test_the_loop_teaches_the_probe_to_decide_and_the_trigger_to_refuse(world, tmp_path):
    teacher, examples = world
    lm, prompts = teacher.lm, [e.prompt for e in examples]
    refusal = [*teacher.renderer.encode_response("No."), lm.turn_end_id]
    gate = RefusalGate.create(RefusalGateConfig(), lm, 0)
    objective = DecisionSplit(DecisionSplitConfig(refusal_weight=1.0))
    config = TrainingConfig(steps=60, batch_size=8, learning_rate=0.1, warmup_steps=0, validate_every=60)
    control = gate.refusal(lm, refusal)[0]

    def log_odds():
        with gate.attach(lm) as student:
            return refusal_log_odds(student, [list(p.ids) for p in prompts], control)

    def nll():
        batch = objective_input(lm, gate, objective, examples, refusal, 2048)
        later = batch.refusal.position > 0
        return float(-batch.refusal.observed_log_probs()[later].mean())

    before, s_before = nll(), log_odds()
    validation = (prompts[:6], prompts[6:], examples[6:])
    result = train(lm, gate, objective, examples, validation, refusal, config, tmp_path)
    s = log_odds()
    assert max(s_before) < -3  # rarer than a token on the mean
    assert auc(s[:6], s[6:]) == pytest.approx(result.best.auc)
    assert result.best.auc > 0.9
    assert sum(s[:6]) / 6 > 0 > sum(s[6:]) / 6
    assert nll() < before - 1.0
    assert result.best.drift == pytest.approx(sum(answer_drift(lm, gate, examples[6:], 2048)) / 6, abs=1e-5)
    assert result.best.drift < 0.5


def test_a_system_refuses_by_the_control_token(world):
    teacher, _ = world
    gate = trained(teacher.lm)
    student = ModelSystem("student", teacher.lm, adapter=gate, refusal_text="No.")
    assert student.refusal_token == len(teacher.lm.embedding_weight)
    conversations = [Conversation.from_prompt("aa"), Conversation.from_prompt("zz")]
    s = student.refusal_log_odds(conversations)
    between = ModelSystem("student", teacher.lm, adapter=gate, refusal_text="No.", threshold=sum(s) / 2)
    replies = between.respond(conversations, ["a", "b"], ReplySettings(max_new_tokens=4))
    assert [r.refused for r in replies] == [x > sum(s) / 2 for x in s]
    assert [r.text == "No." for r in replies] == [r.refused for r in replies]


def test_a_control_token_that_was_said_is_read_and_not_shown(world):
    lm = world[0].lm
    gate = trained(lm)
    with torch.no_grad():
        gate.parameters()[0].copy_(50 * gate.parameters()[0])
    with gate.attach(lm) as student:
        ids = sample(student, [list(prompt(lm, t).ids) for t in "abcdef"], list("abcdef"), max_new_tokens=4, temperature=0.0,
                     seed=0, refusal_token=len(lm.embedding_weight))  # fmt: skip
    said = next(g.ids for g in ids if len(lm.embedding_weight) in g.ids)
    shown = [i for i in said if i < len(lm.embedding_weight)]
    assert ChatRenderer(lm.tokenizer).decode(said) == ChatRenderer(lm.tokenizer).decode(shown)
