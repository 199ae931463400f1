"""Policy files: what they say, what is wrong with them, and the teacher and the student under one."""

from dataclasses import replace

import pytest
import torch

from softguard.adapters import ADAPTERS, SoftPrompt, SoftPromptConfig
from softguard.core import Conversation, ReplySettings, Verdict
from softguard.errors import ConfigError, DataError
from softguard.evaluation.metrics import refuses
from softguard.objectives import OBJECTIVES
from softguard.recipes.student import ModelSystem
from softguard.registry import config_class
from softguard.teacher import GuardedSystem, Outcome, TeacherCache, TeacherSettings, load_policy
from softguard.teacher.policy import UNKNOWN_TEXT
from softguard.training import Example, TrainingConfig, train
from softguard.training.forward import objective_input
from softguard.training.on_policy import OnPolicy
from tests.fakes import tiny_model

KNOWN = {"violence", "advice", "insult", "news"}
POLICY = """
[categories]
violence = { action = "refuse", text = "No. Please call for help." }
advice = { action = "answer_unknown" }
insult = { action = "rewrite", callable = "tests.unit.test_policy:soften" }
news = { action = "keep" }
"""
PAIR = Conversation.from_prompt("hello")


def soften(conversation: Conversation, response: str) -> str:
    return response.replace("damn ", "")


def shorten(conversation: Conversation, response: str) -> str:
    return response[0] + " ok"


def silent(conversation: Conversation, response: str) -> str:
    return " "


def written(folder, text=POLICY):
    path = folder / "policy.toml"
    path.write_text(text)
    return path


def policy(folder, text=POLICY):
    return load_policy(written(folder, text), "Sorry.", KNOWN)


def test_categories_share_what_is_not_safe(tmp_path):
    scores = {"violence": 0.6, "advice": 0.2, "insult": 0.1, "news": 0.1, "other": 0.2}
    decided = policy(tmp_path).decide(PAIR, "a damn answer", Verdict(0.4, scores))
    assert decided.kept == pytest.approx(0.4 + 0.6 * 0.1 / 1.2)
    expected = {"No. Please call for help.": 0.3, UNKNOWN_TEXT: 0.1, "a answer": 0.05, "Sorry.": 0.1}
    assert dict(decided.instead) == pytest.approx(expected)
    assert decided.kept + sum(decided.instead.values()) == pytest.approx(1.0)


def test_without_scores_the_default_decides_and_what_comes_to_one_text_is_one_outcome(tmp_path):
    given = policy(tmp_path)
    assert given.decide(PAIR, "y", Verdict(0.25)).instead == {"Sorry.": 0.75}
    polite = given.decide(PAIR, "polite", Verdict(0.25, {"insult": 1.0}))  # nothing to rewrite
    assert (polite.kept, dict(polite.instead)) == (1.0, {"Sorry.": 0.0})
    same = policy(tmp_path, POLICY.replace("No. Please call for help.", UNKNOWN_TEXT))
    assert same.decide(PAIR, "y", Verdict(0.0, {"violence": 1.0, "advice": 1.0})).instead[UNKNOWN_TEXT] == pytest.approx(1.0)
    keep = policy(tmp_path, 'default = { action = "keep" }\n' + POLICY)
    decided = keep.decide(PAIR, "y", Verdict(0.25, {"other": 1.0}))
    assert (decided.kept, dict(decided.instead)) == (1.0, {"Sorry.": 0.0})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (POLICY.replace("violence", "violense"), "did you mean 'violence'"),
        (POLICY.replace("violence", "tax"), "name one of these"),
        (POLICY.replace("soften", "harden"), "harden"),
        (POLICY.replace("tests.unit.test_policy:soften", "no_such_module:f"), "no_such_module"),
        (POLICY.replace("tests.unit.test_policy:soften", "soften"), "MODULE:FUNCTION"),
        (POLICY.replace("tests.unit.test_policy:soften", "tests.unit.test_policy:KNOWN"), "MODULE:FUNCTION"),
        (POLICY.replace(', callable = "tests.unit.test_policy:soften"', ""), "rewrite has one"),
        (POLICY.replace('action = "keep"', 'action = "keep", text = "well"'), "categories.news"),
        (POLICY.replace('"No. Please call for help."', '"  "'), "not blank"),
        (POLICY.replace('"No. Please call for help."', '""'), "categories.violence.text"),
        (POLICY.replace('action = "keep"', 'action = "drop"'), "categories.news.action"),
        (POLICY.replace('action = "keep"', 'text = "x"'), "categories.news.action"),
        ("[categories]", "categories"),
        ("", "categories"),
        ("defualt = 3\n" + POLICY, "defualt"),
        ("[categories", "TOML"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_before_any_work(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said):
        policy(tmp_path, text)


def test_no_file_no_categories_and_a_rewriting_that_is_no_text(tmp_path):
    with pytest.raises(ConfigError, match="policy file"):
        load_policy(tmp_path / "absent.toml", "Sorry.", KNOWN)
    with pytest.raises(ConfigError, match="tells its categories"):
        load_policy(written(tmp_path), "Sorry.", None)
    broken = policy(tmp_path, POLICY.replace(":soften", ":silent"))
    with pytest.raises(DataError, match="a text from"):
        broken.decide(PAIR, "y", Verdict(0.5, {"insult": 1.0}))


class Sorting:
    """p_safe 1 for prompts with "aa", else 0.1, in the category of the prompt's first letter."""

    name = "sorting"
    fingerprint = "sorting-1"
    category_names = frozenset(KNOWN)

    def judge(self, conversations):
        names = {"v": "violence", "d": "advice"}
        return [Verdict(1.0 if "aa" in c.prompt else 0.1, {names.get(c.prompt[0], "news"): 0.9}) for c in conversations]


def test_the_teacher_says_what_the_policy_names_as_often_as_it_weighs(tmp_path):
    system = GuardedSystem(tiny_model(), Sorting(), "Sorry.", policy(tmp_path))
    replies = system.respond([Conversation.from_prompt("v")] * 300, [str(i) for i in range(300)], ReplySettings(1))
    said = [r.text for r in replies if r.replaced]
    assert set(said) == {"No. Please call for help."}
    assert abs(len(said) / 300 - 0.9) < 0.06
    kept = system.respond([Conversation.from_prompt("n")] * 5, [str(i) for i in range(5)], ReplySettings(1))
    assert not any(r.replaced for r in kept)
    mixed = system.weigh_verdict(PAIR, "y", Verdict(0.2, {"violence": 0.5, "advice": 0.5}))
    draws = [
        (0.21, "No. Please call for help."),
        (0.59, "No. Please call for help."),
        (0.61, UNKNOWN_TEXT),
        (0.999, UNKNOWN_TEXT),
    ]
    assert [system._instead(mixed, u) for u, _ in draws] == [text for _, text in draws]


def test_a_reply_says_what_of_its_policy_is_no_refusal(tmp_path):
    system = GuardedSystem(tiny_model(), Sorting(), "Sorry.", policy(tmp_path))
    ids = [str(i) for i in range(8)]
    for letter, refused in (("v", True), ("d", False)):  # a text of `refuse`, and "I do not know"
        replies = system.respond([Conversation.from_prompt(letter)] * 8, ids, ReplySettings(1))
        replaced = [r for r in replies if r.replaced]
        assert replaced
        assert [refuses(r) for r in replaced] == [refused] * len(replaced)
        assert all(dict(r.instead) == ({} if refused else {UNKNOWN_TEXT: pytest.approx(0.9)}) for r in replies)
        student = ModelSystem("student", system.lm, refusal_text="Sorry.", policy_refusals=system.policy.config.refusals)
        assert student.says_refusal(replaced[0].text, False) == refused  # the same rule


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    lm = tiny_model()
    system = GuardedSystem(lm, Sorting(), "Sorry.", policy(folder))
    prompts = [f"v{i}" for i in range(3)] + [f"d{i}" for i in range(3)] + [f"aa{i}" for i in range(4)]
    conversations = [Conversation.from_prompt(p) for p in prompts]
    records = TeacherCache(folder / "cache", system, TeacherSettings(max_new_tokens=4)).records(prompts, conversations)
    render = system.renderer.render
    return system, [Example(render(c), r, "aa" not in r.id, c) for c, r in zip(conversations, records, strict=True)]


def test_records_hold_the_outcomes(world):
    system, examples = world
    by_id = {e.record.id: e.record for e in examples}
    assert by_id["v0"].alpha == pytest.approx(0.1)
    (outcome,) = [o for o in by_id["v0"].outcomes if o.weight > 0]
    assert (outcome.text, outcome.weight) == ("No. Please call for help.", pytest.approx(0.9))
    assert outcome.response_ids == (*system.renderer.encode_response(outcome.text), system.lm.turn_end_id)
    assert [o.weight for o in by_id["aa0"].outcomes] == [0.0]
    plain = GuardedSystem(system.lm, Sorting(), "Sorry.").weigh_verdict(PAIR, "y", Verdict(0.1))
    assert (plain.alpha, plain.outcomes) == (0.1, ())


NAMES = [n for n in OBJECTIVES if n != "dpo" and "sequence" in OBJECTIVES.get(n)(config_class(OBJECTIVES.get(n))(kind=n)).needs]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_every_distillation_objective_learns_what_to_say_instead(world, tmp_path, name, fraction):
    system, examples = world
    adapter = SoftPrompt.create(SoftPromptConfig(num_virtual_tokens=4), system.lm, 0)
    factory = OBJECTIVES.get(name)
    prompts = [e.prompt for e in examples]
    config = TrainingConfig(
        steps=8,
        batch_size=6,
        learning_rate=0.2,
        validate_every=8,
        warmup_steps=1,
        on_policy_fraction=fraction,
        on_policy_tokens=3,
    )
    config = config.model_copy(update={"steps": 1 if fraction else 8})
    refusal = [*system.renderer.encode_response("Sorry."), system.lm.turn_end_id]
    validation = (prompts[:6], prompts[6:], examples[6:])
    objective = factory(config_class(factory)(kind=name))
    result = train(system.lm, adapter, objective, examples, validation, refusal, config, tmp_path, None, system)
    said = [row["nll_refusal_2"] for row in result.history]  # of "o" or " "
    assert all(torch.isfinite(torch.tensor(said)))
    assert fraction or said[-1] < said[0]


@pytest.mark.parametrize("text", ["Sorry.", "No. Please call for help.", UNKNOWN_TEXT])
def test_a_student_that_says_any_text_of_the_policy_keeps_the_draft(world, text):
    """A harmless text would become the answer to a prompt whose draft has another outcome: it would teach not to refuse."""
    system, examples = world
    adapter = SoftPrompt.create(SoftPromptConfig(num_virtual_tokens=4), system.lm, 0)
    config = TrainingConfig(steps=1, batch_size=6, on_policy_fraction=1.0, on_policy_tokens=3)
    refusal = [*system.renderer.encode_response("Sorry."), system.lm.turn_end_id]
    objective = OBJECTIVES.get("tv_disp")(config_class(OBJECTIVES.get("tv_disp"))())
    fresh = OnPolicy(system.lm, adapter, objective, system, config, refusal)
    assert all(fresh._declines(e, text + " Really.", False) and fresh._declines(e, text[:2], True) for e in examples)
    assert not any(fresh._declines(e, "Call for help.", False) for e in examples)
    fresh._renderer.decode = lambda ids: "Sorry." if list(ids) == refusal else text
    assert all(a is b for a, b in zip(fresh.draw([examples], 0, []).batches[0], examples, strict=True))


def test_a_row_whose_outcomes_are_all_below_the_floor_still_decides(world):
    system, examples = world
    outcomes = tuple(Outcome(t, tuple(system.renderer.encode_response(t)), w) for t, w in (("No.", 0.3), ("Ask.", 0.4)))
    spread = replace(examples[0], record=replace(examples[0].record, alpha=0.3, outcomes=outcomes))
    adapter = SoftPrompt.create(SoftPromptConfig(num_virtual_tokens=4), system.lm, 0)
    factory = OBJECTIVES.get("decision_split")
    objective = factory(config_class(factory)(branch_floor=0.45))
    sequence = OBJECTIVES.get("tv_disp")(config_class(OBJECTIVES.get("tv_disp"))())
    rows = [examples[-1], spread]
    batch = objective_input(system.lm, adapter, objective, rows, [5, 6], 2048)
    alone = objective_input(system.lm, adapter, sequence, rows, [5, 6], 2048)
    assert torch.allclose(batch.first_logits, alone.first_logits, atol=1e-5)
    assert batch.refusal.row.unique().tolist() == [2]  # the likelier of row 1; row 0 has its one outcome of weight 0


class Insulted(Sorting):
    """p_safe 0.9, and an insult for the rest."""

    fingerprint = "insulted-1"

    def judge(self, conversations):
        return [Verdict(0.9, {"insult": 0.1}) for _ in conversations]


@pytest.fixture(scope="module")
def rewritten(tmp_path_factory):
    """Answers that are kept with 0.9, and else rewritten from the second token on; the base model is sure of the first."""
    folder = tmp_path_factory.mktemp("rewriting")
    lm = tiny_model(seed=1)
    with torch.no_grad():
        lm.network.model.norm.weight.mul_(5)
    system = GuardedSystem(lm, Insulted(), "Sorry.", policy(folder, POLICY.replace(":soften", ":shorten")))
    ids = [f"i{i}" for i in range(12)]
    conversations = [Conversation.from_prompt(p) for p in ids]
    greedy = TeacherSettings(max_new_tokens=4, temperature=0.0)
    records = TeacherCache(folder / "cache", system, greedy).records(ids, conversations)
    render = system.renderer.render
    examples = [Example(render(c), r, True, c) for c, r in zip(conversations, records, strict=True) if r.response[0].isascii()]
    assert len(examples) >= 4
    assert all(e.record.outcomes[-1].response_ids[0] == e.record.response_ids[0] for e in examples)
    return system, examples


@pytest.mark.parametrize("name", NAMES)
def test_a_rewriting_becomes_likelier_and_what_it_shares_with_the_answer_does_not_fall(rewritten, name):
    system, examples = rewritten
    adapter = ADAPTERS.get("lora").create(config_class(ADAPTERS.get("lora"))(), system.lm, 0)  # begins as the base model
    factory = OBJECTIVES.get(name)
    objective = factory(config_class(factory)(kind=name))
    optimiser = torch.optim.Adam(adapter.parameters(), 3e-3)
    refusal = [*system.renderer.encode_response("Sorry."), system.lm.turn_end_id]
    first, whole = [], []
    for _ in range(12):
        batch = objective_input(system.lm, adapter, objective, examples, refusal, 2048)
        firsts = batch.answer.targets[batch.answer.position == 0]
        first.append(torch.softmax(batch.first_logits, -1)[torch.arange(len(firsts)), firsts].detach())
        said = batch.refusal.sum_by_row(batch.refusal.observed_log_probs(), len(batch.outcomes.weight))
        whole.append(float(said[batch.outcomes.weight > 0].mean()))
        optimiser.zero_grad()
        objective(batch).loss.backward()
        optimiser.step()
    assert first[0].min() > 0.15  # more than the rewriting's weight: what a target of 0.1 would pull down
    assert first[-1].mean() > first[0].mean()
    assert whole[-1] > whole[0] + 0.5
