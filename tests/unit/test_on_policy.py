"""The student's own responses in the one loop: drawn from the step, judged, resumed bit for bit."""

import math
from dataclasses import replace

import pytest
import torch

from softguard.adapters import SoftPrompt, SoftPromptConfig
from softguard.core import Conversation, Verdict
from softguard.errors import CompatibilityError, DataError, GuardError
from softguard.models import response_states
from softguard.objectives import OBJECTIVES
from softguard.registry import config_class
from softguard.teacher import GuardedSystem, Outcome, TeacherCache, TeacherSettings, Weighed
from softguard.training import Example, TrainingConfig, check_fit, check_same_tokenizer, train
from softguard.training.on_policy import OnPolicy
from tests.fakes import KeywordGuard, tiny_model

CONFIG = TrainingConfig(steps=5, batch_size=4, learning_rate=0.1, validate_every=2, warmup_steps=1, on_policy_tokens=4)
PROMPTS = [f"zz{i}" for i in range(4)] + [f"aa{i}" for i in range(4)]


class ByteGuard:
    """The share of the answer's bytes that are ASCII: soft, and something that can be learnt."""

    name = "bytes"
    fingerprint = "bytes-1"

    def judge(self, conversations):
        shares = [sum(c.isascii() for c in x.response) / max(1, len(x.response)) for x in conversations]
        return [Verdict(p_safe=share) for share in shares]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    lm = tiny_model()
    teacher = GuardedSystem(lm, KeywordGuard("zz"), "Sorry.")
    conversations = [Conversation.from_prompt(p) for p in PROMPTS]
    cache = TeacherCache(tmp_path_factory.mktemp("cache"), teacher, TeacherSettings(max_new_tokens=4), refusal_log_probs=True)
    records = cache.records(PROMPTS, conversations)
    render = teacher.renderer.render
    examples = [Example(render(c), r, r.id.startswith("zz"), c) for c, r in zip(conversations, records, strict=True)]
    return lm, examples, [*teacher.renderer.encode_response("Sorry."), lm.turn_end_id]


def made(name, **settings):
    factory = OBJECTIVES.get(name)
    return factory(config_class(factory)(kind=name, **settings))


def serving(world, objective, config=CONFIG, guard=None):
    lm, _, refusal = world
    adapter = SoftPrompt.create(SoftPromptConfig(num_virtual_tokens=3), lm, 0)
    return adapter, OnPolicy(lm, adapter, objective, GuardedSystem(lm, guard or ByteGuard(), "Sorry."), config, refusal)


def run(world, folder, objective, config=CONFIG, guard=None, progress=None):
    lm, examples, refusal = world
    adapter = SoftPrompt.create(SoftPromptConfig(num_virtual_tokens=3), lm, 0)
    prompts = [e.prompt for e in examples]
    weigher = GuardedSystem(lm, guard or ByteGuard(), "Sorry.")
    validation = (prompts[:4], prompts[4:], examples[4:])
    return adapter, train(lm, adapter, objective, examples, validation, refusal, config, folder, progress, weigher)


class Stop(Exception):
    pass


@pytest.mark.parametrize(("name", "fraction"), [("reinforce", 0.0), ("ppo", 0.0), ("decision_split", 0.5)])
def test_a_kill_changes_nothing(world, tmp_path, name, fraction):
    settings = {"max_new_tokens": 4} if fraction == 0 else {}
    config = CONFIG.model_copy(update={"on_policy_fraction": fraction})
    whole, result = run(world, tmp_path / "a", made(name, **settings), config)

    def kill(step, steps, figures):
        if step == 3:
            raise Stop

    with pytest.raises(Stop):
        run(world, tmp_path / "b", made(name, **settings), config, progress=kill)
    resumed, again = run(world, tmp_path / "b", made(name, **settings), config)
    assert torch.equal(whole.virtual_tokens(), resumed.virtual_tokens())
    for key in ("loss", "reward", "on_policy_tokens"):
        assert [r[key] for r in result.history] == [r[key] for r in again.history]
    assert 0 <= result.history[0]["reward"] <= 1


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if "sequence" in made(n).needs])
def test_every_distillation_objective_takes_responses_of_the_student(world, tmp_path, name):
    config = CONFIG.model_copy(update={"steps": 1, "on_policy_fraction": 0.5})
    _, result = run(world, tmp_path, made(name), config)
    assert math.isfinite(result.history[0]["loss"])
    assert result.history[0]["on_policy_tokens"] > 0


def test_a_share_of_the_batch_is_what_the_guarded_system_makes_of_the_students_text(world):
    lm, examples, _ = world
    config = CONFIG.model_copy(update={"on_policy_fraction": 0.5})
    adapter, fresh = serving(world, made("forward_kl"), config)
    given = [examples[:4], examples[4:]]
    drawn = fresh.draw(given, 0, [])
    assert fresh.draw(given, 0, []).figures == drawn.figures
    changed = [(a, b) for x, y in zip(given, drawn.batches, strict=True) for a, b in zip(x, y, strict=True) if a is not b]
    assert len(changed) == 4
    for before, after in changed:
        assert before.prompt == after.prompt
        record = after.record
        assert record.alpha == ByteGuard().judge([after.conversation.with_response(record.response)])[0].p_safe
        states = response_states(lm, [before.prompt.ids], [record.response_ids]).states  # the base model's, without W
        assert torch.allclose(record.states, states, atol=1e-4)
        log_probs = torch.log_softmax(lm.head(states), -1)[torch.arange(len(states)), list(record.response_ids)]
        assert record.log_prob == pytest.approx(log_probs.sum().item(), abs=1e-3)
    other = fresh.draw(given, 1, [])
    ids = [[e.record.response_ids for b in d.batches for e in b] for d in (drawn, other)]
    assert ids[0] != ids[1]
    with torch.no_grad():
        adapter.parameters()[0].mul_(-3.0)
    assert [e.record.response_ids for b in fresh.draw(given, 0, []).batches for e in b] != ids[0]  # it is the student who speaks


def test_a_small_share_holds_over_the_steps(world):
    _, fresh = serving(world, made("tv_disp"), CONFIG.model_copy(update={"on_policy_fraction": 0.05}))
    counts = [len(fresh._chosen(8, step)) for step in range(200)]
    assert set(counts) == {0, 1}
    assert abs(sum(counts) / 1600 - 0.05) < 0.015
    step = counts.index(0)
    assert fresh.draw([world[1]], step, []).batches == [world[1]]


def test_a_student_that_declines_keeps_the_draft_that_says_whether_it_was_right(world):
    """The guard finds a refusal harmless: as the weight of an answer that would teach not to refuse."""
    _, examples, _ = world
    _, fresh = serving(world, made("forward_kl"), CONFIG.model_copy(update={"on_policy_fraction": 1.0}))
    assert fresh._declines(examples[0], "Sorry. No.", False)
    assert fresh._declines(examples[0], "Sor", True)
    assert not fresh._declines(examples[0], "Sor", False)
    assert not fresh._declines(examples[0], "", True)
    assert not fresh._declines(examples[0], "So you want", True)
    named = replace(examples[0], record=replace(examples[0].record, outcomes=(Outcome("I do not know.", (1,), 1.0),)))
    assert fresh._declines(named, "I do not know. Really.", False)
    assert fresh._declines(named, "Sorry. No.", False)  # the run's refusal, though this draft's outcome is another
    assert not fresh._declines(examples[0], "I do not know. Really.", False)
    fresh._renderer.decode = lambda ids: "Sorry."
    assert all(a is b for a, b in zip(fresh.draw([examples[:4]], 0, []).batches[0], examples[:4], strict=True))


class Partly(ByteGuard):
    def __init__(self, graded):
        self._graded = graded

    def judge(self, conversations):
        judged = super().judge(conversations)
        return [v if self._graded(c.prompt) else Verdict(ungraded="cut") for c, v in zip(conversations, judged, strict=True)]


def test_what_is_not_graded_is_no_reward(world):
    _, examples, _ = world
    objective = made("reinforce", max_new_tokens=3)
    _, fresh = serving(world, objective, guard=Partly(lambda p: p.startswith("aa")))
    drawn = fresh.draw([examples[:5], examples[5:]], 0, [])
    assert [[e.record.id for e in b] for b in drawn.batches] == [["aa0"], ["aa1", "aa2", "aa3"]]
    assert drawn.figures["on_policy_ungraded"] == 0.5
    _, fresh = serving(world, objective, guard=Partly(lambda p: False))
    with pytest.raises(GuardError, match="none of 8 at step 3"):
        fresh.draw([examples], 2, [])
    config = CONFIG.model_copy(update={"on_policy_fraction": 1.0})
    _, fresh = serving(world, made("tv_disp"), config, guard=Partly(lambda p: False))
    assert fresh.draw([examples], 0, []).batches == [examples]  # the drafts stand


@pytest.mark.parametrize("reward", [float("nan"), 1.5, -0.1])
def test_a_reward_that_is_no_probability_stops_before_the_step(world, tmp_path, reward):
    lm, examples, refusal = world

    class Wrong:
        fixed_texts = frozenset()

        def weigh(self, conversations, responses):
            return [Weighed(reward, reward, {}) for _ in responses]

    adapter = SoftPrompt.create(SoftPromptConfig(num_virtual_tokens=3), lm, 0)
    before = adapter.virtual_tokens().detach().clone()
    prompts = [e.prompt for e in examples]
    with pytest.raises(DataError, match=r"a reward in \[0, 1\]"):
        train(
            lm,
            adapter,
            made("reinforce"),
            examples,
            (prompts[:4], prompts[4:], examples),
            refusal,
            CONFIG,
            tmp_path,
            None,
            Wrong(),
        )
    assert torch.equal(before, adapter.virtual_tokens())


def test_old_figures_are_those_before_the_first_update(world):
    _, examples, _ = world
    objective = made("ppo", max_new_tokens=3)
    _, fresh = serving(world, objective)
    drawn = fresh.draw([examples], 0, [{"reward": 0.25}, {"reward": 0.5}])
    from softguard.training.forward import objective_input

    batch = objective_input(fresh._lm, fresh._adapter, objective, drawn.batches[0], fresh._refusal_ids, 2048)
    batch = fresh.complete(batch, drawn.batches[0])
    assert torch.allclose(batch.samples.old_log_probs, batch.answer.log_probs(), atol=1e-5)
    assert batch.samples.past_rewards.tolist() == [0.25, 0.5]
    output = objective(batch)
    assert output.metrics["clip_fraction"] == 0.0
    assert torch.isfinite(output.loss)
    output.loss.backward()
    head = fresh.parameter_groups()[0]
    assert head["scale"] == pytest.approx(1e-3 / 0.1)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head["params"])


def changed(example, **settings):
    return replace(example, record=replace(example.record, **settings))


@pytest.mark.parametrize(
    ("name", "settings", "error", "said"),
    [
        ("decision_split", {"states": None}, CompatibilityError, "a teacher that gives its states"),
        ("forward_kl", {"states": torch.zeros(3, 8)}, CompatibilityError, "teacher states of width 32"),
        ("tv_disp", {"response_ids": (5, 999)}, CompatibilityError, "token 999"),
        ("tv_disp", {"response_ids": ()}, DataError, "an empty one"),
        ("tv_disp", {"alpha": 1.2}, DataError, r"alpha in \[0, 1\]"),
        ("tv_disp", {"alpha": -0.01}, DataError, r"alpha in \[0, 1\]"),
        ("tv_disp", {"alpha": float("nan")}, DataError, r"alpha in \[0, 1\]"),
        ("tv_disp", {"alpha": 0.5, "outcomes": (Outcome("a", (1,), 0.3),)}, DataError, "add up to 1"),
        ("tv_disp_ratio", {"log_prob": None}, CompatibilityError, r"log p\(y\|x\)"),
        ("dpo", {"refusal_log_prob": None}, CompatibilityError, r"refusal_log_probs=True"),
        ("dpo", {"alpha": 0.5, "outcomes": (Outcome("a", (1,), 0.5),)}, CompatibilityError, "a policy"),
    ],
)
def test_what_does_not_fit_is_said_before_any_work(world, name, settings, error, said):
    lm, examples, _ = world
    check_fit(lm, made(name), examples, CONFIG, None)
    with pytest.raises(error, match=said):
        check_fit(lm, made(name), [*examples[1:], changed(examples[0], **settings)], CONFIG, None)


def test_a_teacher_without_states_serves_sequence_objectives(world, tmp_path):
    lm, examples, refusal = world
    blind = [changed(e, states=None) for e in examples]
    prompts = [e.prompt for e in examples]
    adapter = SoftPrompt.create(SoftPromptConfig(num_virtual_tokens=3), lm, 0)
    config = CONFIG.model_copy(update={"steps": 1})
    result = train(lm, adapter, made("tv_disp"), blind, (prompts[:4], prompts[4:], examples[4:]), refusal, config, tmp_path)
    assert len(result.history) == 1


def test_no_examples_one_kind_no_guard_and_no_conversation(world):
    lm, examples, _ = world
    for given in ([], examples[:4]):
        with pytest.raises(DataError, match="harmful and benign"):
            check_fit(lm, made("tv_disp"), given, CONFIG, None)
    half = CONFIG.model_copy(update={"on_policy_fraction": 0.5})
    weigher = GuardedSystem(lm, ByteGuard())
    for name, config in (("reinforce", CONFIG), ("tv_disp", half)):
        with pytest.raises(CompatibilityError, match="a guard to judge"):
            check_fit(lm, made(name), examples, config, None)
        with pytest.raises(CompatibilityError, match="conversations"):
            check_fit(lm, made(name), [replace(e, conversation=None) for e in examples], config, weigher)
        check_fit(lm, made(name), examples, config, weigher)
    for name in ("ppo", "perplexity"):
        with pytest.raises(CompatibilityError, match="leave it at 0"):
            check_fit(lm, made(name), examples, half, weigher)


def test_another_tokenizer_is_refused(world):
    a, b = tiny_model(), tiny_model(seed=1)
    check_same_tokenizer(a, a)
    check_same_tokenizer(a, b)
    b.tokenizer.chat_template += " "
    with pytest.raises(CompatibilityError, match="same chat template"):
        check_same_tokenizer(a, b)
    with pytest.raises(CompatibilityError, match="same chat template"):
        check_fit(a, made("tv_disp"), world[1], CONFIG, GuardedSystem(b, ByteGuard()))
    b.tokenizer.add_tokens(["<new>"])
    with pytest.raises(CompatibilityError, match="same vocabulary"):
        check_same_tokenizer(a, b)
