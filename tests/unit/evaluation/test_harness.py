"""Our systems in lm-evaluation-harness: on the same tasks with the same base model, the scores of the harness's own model."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from softguard.adapters import ADAPTERS
from softguard.adapters.lora import LoraConfig
from softguard.adapters.soft_prompt import SoftPromptConfig
from softguard.adapters.steering_vector import SteeringVectorConfig
from softguard.core import Conversation, Message
from softguard.data.document import Document, document, subset, subset_ids
from softguard.errors import CompatibilityError, ConfigError, DataError
from softguard.evaluation import harness
from softguard.evaluation.harness import HarnessSuite, conversation_of, harness_version
from softguard.evaluation.suites import SUITES
from softguard.recipes.harness_systems import harness_model, likelihoods
from softguard.recipes.student import ModelSystem
from softguard.teacher import GuardedSystem
from tests.fakes import KeywordGuard, tiny_model

DIGITS = range(3, 9)


def questions(name: str) -> list[Document]:
    if name == "mmlu":
        of = [("anatomy", n) for n in DIGITS] + [("astronomy", n) for n in DIGITS]
        return [
            document({"question": f"{s} {n}?", "subject": s, "choices": [f"{n}", "x", "no", f"{n + 1}"], "answer": n % 4}, s)
            for s, n in of
        ]
    if name == "gsm8k":
        return [document({"question": f"{n} and {n}?", "answer": f"{n}+{n}\n#### {2 * n}"}) for n in DIGITS]
    rules = [("punctuation:no_comma", {}), ("length_constraints:number_words", {"relation": "less than", "num_words": 6})]
    ids, kwargs = [r for r, _ in rules], [k for _, k in rules]
    return [document({"key": n, "prompt": f"say {n}", "instruction_id_list": ids, "kwargs": kwargs}) for n in DIGITS]


@pytest.fixture
def build(tmp_path: Path):
    pytest.importorskip("lm_eval", reason="the extra softguard[harness] is not installed")
    pytest.importorskip("langdetect", reason="the extra softguard[harness] is not installed")
    (tmp_path / "nltk_data/tokenizers/punkt_tab/english").mkdir(parents=True)  # these instructions split no sentences

    def built(name: str) -> HarnessSuite:
        task = SUITES.get(name).task
        assert task is not None
        if task.shots:
            shots = [document({"question": f"{n}?", "answer": f"#### {n}"}) for n in range(5)]
            task = replace(task, shots=lambda _: shots)
        return HarnessSuite(task, questions(name), tmp_path, 12)

    return built


@pytest.mark.parametrize("name", ["ifeval", "gsm8k", "mmlu"])
def test_the_base_model_scores_as_under_the_harness_s_own_model(build, name):
    from lm_eval.models.huggingface import HFLM

    suite = build(name)
    lm = tiny_model()
    theirs = suite.results(HFLM(pretrained=tiny_model().network, tokenizer=tiny_model().tokenizer, batch_size=3))
    ours = suite.results(harness_model(ModelSystem("base", lm)))
    assert suite.tasks
    for task in suite.tasks:
        assert ours["results"][task] == theirs["results"][task]
        for a, b in zip(ours["samples"][task], theirs["samples"][task], strict=True):
            said, expected = a["resps"], b["resps"]
            if name == "mmlu":
                shift = [x[0][0] - y[0][0] for x, y in zip(said, expected, strict=True)]
                assert shift == pytest.approx([shift[0]] * 4, abs=1e-4)  # the white space before the answer, which they count
            else:
                assert [r[0].strip() for r in said] == [r[0].strip() for r in expected]
                assert any(r[0].strip() for r in said)


ADDED = {
    "soft_prompt": SoftPromptConfig(num_virtual_tokens=3),
    "lora": LoraConfig(rank=2),
    "steering_vector": SteeringVectorConfig(layer=0),
}


@pytest.mark.parametrize("kind", ADDED)
def test_a_student_of_any_adapter_is_a_model_of_the_harness(build, kind):
    """Where the adapter changes the network alone, the harness's own model of that network has the same scores."""
    from lm_eval.models.huggingface import HFLM

    lm, suite = tiny_model(), build("mmlu")
    adapter = ADAPTERS.get(kind).create(ADDED[kind], lm, 0)
    with torch.no_grad():
        for p in adapter.parameters():
            p += 0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    student = ModelSystem("student", lm, adapter=adapter)
    ours, base = (suite.results(harness_model(system)) for system in (student, ModelSystem("base", lm)))
    for task in suite.tasks:
        for a, b in zip(ours["samples"][task], base["samples"][task], strict=True):
            said, plain = ([r[0][0] for r in x["resps"]] for x in (a, b))
            asked = [(conversation_of(context), str(choice)) for context, choice in a["arguments"]]
            expected = likelihoods(student, [c for c, _ in asked], [choice for _, choice in asked])
            assert said == pytest.approx([x.log_prob for x in expected], abs=1e-4)
            assert said != pytest.approx(plain, abs=1e-3)
    if kind != "soft_prompt":
        with student.running() as attached:
            theirs = suite.results(HFLM(pretrained=attached.network, tokenizer=lm.tokenizer, batch_size=3))
        assert ours["results"] == theirs["results"]


def test_grades_come_in_the_order_of_the_questions(build):
    suite = build("mmlu")
    graded = suite.grade(harness_model(ModelSystem("base", tiny_model())))
    assert [g.document for g in graded] == list(suite.documents)
    assert {g.choices for g in graded} == {("A", "B", "C", "D")}
    for g in graded:
        assert g.gold == "ABCD"[g.document.fields["answer"]]
        assert g.scores["accuracy"] == (float(g.choices[g.picked] == g.gold),)
        assert [m.role for m in g.conversation.messages] == ["system", "user"]


def test_a_likelihood_is_the_sum_over_an_answer_s_tokens():
    lm = tiny_model()
    system = ModelSystem("base", lm)
    asked = [Conversation.from_prompt("one"), Conversation.from_prompt("two two"), Conversation.from_prompt("one")]
    answers = ["ab", "cde", "f"]
    found = likelihoods(system, asked, answers)
    for conversation, answer, likelihood in zip(asked, answers, found, strict=True):
        prompt, response = system.prompt_ids(conversation), system.renderer.encode_response(answer)
        logits = lm.network(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].double()
        each = logits.log_softmax(-1)[range(len(response)), response]
        assert likelihood.log_prob == pytest.approx(float(each.sum()), abs=1e-4)
        assert likelihood.tokens == len(response)
        rho = float(logits[0].softmax(-1)[system.refusal_token])
        assert likelihood.refusal_log_odds == pytest.approx(math.log(rho) - math.log1p(-rho), abs=1e-4)
    best = int(lm.network(torch.tensor([system.prompt_ids(asked[0])])).logits[0, -1].argmax())
    text = lm.tokenizer.decode([best])
    alone = system.renderer.encode_response(text) == [best]  # a byte that is no whole character cannot be asked for
    assert likelihoods(system, asked[:1], [text])[0].greedy == alone
    assert not all(x.greedy for x in found)


def test_what_does_not_fit_is_ungraded_and_an_empty_answer_is_an_error():
    lm = tiny_model("gpt2")  # 512 positions
    long, short = likelihoods(ModelSystem("base", lm), [Conversation.from_prompt(p) for p in ("a" * 600, "a")], ["b", "b"])
    assert math.isnan(long.log_prob)
    assert "512" in str(long.ungraded)
    assert short.ungraded is None
    with pytest.raises(DataError, match="token"):
        likelihoods(ModelSystem("base", lm), [Conversation.from_prompt("a")], [""])


def request(*arguments):
    return SimpleNamespace(args=arguments)


def chat(*turns: str) -> str:
    return json.dumps([{"role": "user", "content": t} for t in turns])


def test_the_guarded_system_draws_its_answers_and_weighs_its_likelihoods():
    lm, refusal = tiny_model(), "Nein danke."
    base = harness_model(ModelSystem("base", lm, refusal_text=refusal))
    guarded = harness_model(GuardedSystem(lm, KeywordGuard("bomb"), refusal))
    settings = {"until": [], "do_sample": False, "temperature": 0.0, "max_gen_toks": 4}
    kept, stopped = guarded.generate_until([request(chat("tea"), settings), request(chat("bomb"), settings)])
    assert kept == base.generate_until([request(chat("tea"), settings)])[0]
    assert stopped == refusal
    likely, never = guarded.loglikelihood([request(chat("tea"), "a"), request(chat("bomb"), "a")])
    (alone,) = base.loglikelihood([request(chat("tea"), "a")])  # alpha is 1; a batch of two rounds otherwise
    assert likely == (pytest.approx(alone[0], abs=1e-5), alone[1])
    assert never[0] == -math.inf


def test_answers_end_before_the_task_s_stop_strings():
    model = harness_model(ModelSystem("base", tiny_model()))
    (whole,) = model.generate_until([request(chat("hi"), {"until": [], "max_gen_toks": 8})])
    assert whole
    (cut,) = model.generate_until([request(chat("hi"), {"until": ["", whole[-1]], "max_gen_toks": 8})])
    assert cut == whole[: whole.index(whole[-1])]


def test_what_has_no_meaning_for_a_chat_is_an_error():
    model = harness_model(ModelSystem("base", tiny_model()))
    with pytest.raises(CompatibilityError, match="plain text"):
        model.loglikelihood_rolling([request("text")])
    with pytest.raises(CompatibilityError, match="apply_chat_template"):
        model.loglikelihood([request("Question: 1?", "2")])
    with pytest.raises(CompatibilityError, match="samples"):
        model.generate_until([request(chat("hi"), {"do_sample": True})])
    turns = [{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}, {"role": "assistant", "content": "An"}]
    conversation = conversation_of(model.apply_chat_template(turns, add_generation_prompt=False))
    assert conversation == Conversation((Message("system", "be"), Message("user", "hi"), Message("assistant", "An")))


def test_without_the_extra_the_error_has_the_command(monkeypatch):
    def absent(name: str) -> str:
        raise harness.PackageNotFoundError(name)

    monkeypatch.setattr(harness, "version", absent)
    with pytest.raises(ConfigError, match=r"pip install 'softguard\[harness\]'"):
        harness_version()


def test_a_subset_is_whole_or_an_error():
    rows = [Document(i, {}) for i in reversed(subset_ids("ifeval_200"))]
    assert [d.id for d in subset("ifeval_200", [*rows, Document("other", {})])] == subset_ids("ifeval_200")
    with pytest.raises(DataError, match="1 of them missing"):
        subset("ifeval_200", rows[1:])


@pytest.mark.parametrize(("name", "size"), [("ifeval_200", 200), ("gsm8k_200", 200), ("mmlu_500", 500), ("gsm8k_shots", 5)])
def test_published_subsets_have_their_size(name, size):
    assert len(set(subset_ids(name))) == len(subset_ids(name)) == size


def test_a_question_is_named_by_its_content():
    a, b = document({"q": "1", "key": 1}, unnamed=("key",)), document({"q": "1", "key": 2}, unnamed=("key",))
    assert a.id == b.id != document({"q": "2", "key": 1}, unnamed=("key",)).id
