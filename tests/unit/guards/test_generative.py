"""A family on tiny random models: what is read against the whole model's softmax, batches, windows, cuts, categories."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from softguard.core import Conversation, Message
from softguard.errors import CompatibilityError, ConfigError
from softguard.guards import GUARDS
from softguard.guards.family import FAMILIES, Question
from softguard.guards.generative import GenerativeGuard, GuardModel
from softguard.guards.reading import encoded, read_texts
from softguard.models import LanguageModel, load_model, response_states
from tests.fakes import byte_tokenizer, tiny_model

PAIR = Conversation.from_prompt("Name a river.").with_response("The Rhine.")
LONG = Conversation.from_prompt("Tell me a story.").with_response("Once upon a time there was a river. " * 5)


def by_softmax(lm: LanguageModel, text: str, answers: tuple[str, ...]) -> dict[str, float]:
    """Each answer's probability from the logits of the whole network, byte for byte."""
    found = {}
    for answer in answers:
        ids = torch.tensor([encoded(lm.tokenizer, text + answer)])
        start = len(encoded(lm.tokenizer, text))
        log_p = lm.network(input_ids=ids).logits[0].double().log_softmax(-1)
        found[answer] = float(sum(log_p[t - 1, ids[0, t]] for t in range(start, ids.shape[1])).exp())
    return found


_SIZES: dict[str, Any] = {
    **{"vocab_size": 258, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "initializer_range": 0.2},
}
ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SIZES)),
    "llama4": lambda: Llama4ForCausalLM(
        Llama4TextConfig(**_SIZES, head_dim=8, intermediate_size_mlp=64, moe_layers=[], attention_chunk_size=8192)
    ),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**_SIZES, head_dim=8, query_pre_attn_scalar=8)),
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**_SIZES, logits_scaling=4.0)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**_SIZES, sliding_window=None)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_SIZES, head_dim=8)),
}
"""What the families are made of."""


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_first_token_probabilities_are_those_of_the_whole_model(kind, tmp_path):
    torch.manual_seed(0)
    ARCHITECTURES[kind]().save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    lm = load_model(str(tmp_path), dtype=torch.float32, device="cpu")
    question = Question("verdict", "\n\n", ("safe", "unsafe"))
    texts = ["A prompt that both share: one", "A prompt that both share: another, longer one", "none"]
    for text, found in zip(texts, read_texts(lm, texts, [question]), strict=True):
        p = by_softmax(lm, text + "\n\n", ("s", "u"))  # the first bytes of the answers tell them apart
        assert found is not None
        assert found.answers["verdict"]["safe"] == pytest.approx(p["s"] / (p["s"] + p["u"]), abs=1e-5)
        assert found.mass == pytest.approx(p["s"] + p["u"], rel=1e-4)


def test_answers_that_begin_alike_are_read_up_to_where_they_part():
    lm = tiny_model()
    (reading,) = read_texts(lm, ["Q"], [Question("q", ":", ("nay", "now", "yes"))])
    parts = by_softmax(lm, "Q:", ("na", "no", "y"))
    assert reading is not None
    total = sum(parts.values())
    for answer, part in (("nay", "na"), ("now", "no"), ("yes", "y")):
        assert reading.answers["q"][answer] == pytest.approx(parts[part] / total, abs=1e-5)


def test_several_questions_are_marginalised_over_every_path():
    lm = tiny_model()
    questions = FAMILIES.get("wildguard").questions
    (reading,) = read_texts(lm, ["Text"], questions)
    assert reading is not None
    expected = dict.fromkeys(questions[2].answers, 0.0)
    for first in questions[0].answers:
        one = by_softmax(lm, "Text" + questions[0].lead + " ", tuple(a[1] for a in questions[0].answers))
        for second in questions[1].answers:
            lead = "Text" + questions[0].lead + first + questions[1].lead
            two = by_softmax(lm, lead + " ", tuple(a[1] for a in questions[1].answers))
            three = by_softmax(lm, lead + second + questions[2].lead + " ", tuple(a[1] for a in questions[2].answers))
            path = one[first[1]] / sum(one.values()) * two[second[1]] / sum(two.values())
            for third in expected:
                expected[third] += path * three[third[1]] / sum(three.values())
    assert dict(reading.answers["harmful_response"]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("family", "branches", "longest"),
    [("llama-guard-3", 1, 1), ("qwen3guard", 1, 1), ("wildguard", 6, 60), ("shieldgemma", 4, 750)],
)
def test_a_pair_costs_its_prompt_and_as_few_branches_as_there_can_be(family, branches, longest, monkeypatch):
    asked: list[tuple[list, list]] = []

    def watched(lm, prompts, responses, **options):
        asked.append((prompts, responses))
        return response_states(lm, prompts, responses, **options)

    monkeypatch.setattr("softguard.guards.reading.response_states", watched)
    lm = tiny_model()
    lm.network.config.max_position_embeddings = 16_384
    GenerativeGuard(lm, FAMILIES.get(family), min_mass=0.0).judge([PAIR])
    ((prompts, responses),) = asked
    assert len(responses) == branches
    assert len({tuple(p) for p in prompts}) == 1
    assert max(len(r) for r in responses) <= longest
    assert lm.tokenizer.decode(prompts[0]).count("The Rhine.") == 1


def test_prompts_of_a_group_read_as_they_do_alone():
    lm = tiny_model()
    question = Question("q", "", ("Yes", "No"))
    texts = ["The same beginning, then one", "The same beginning, then another thing", "Else"]
    alone, grouped = read_texts(lm, texts, [question]), read_texts(lm, texts, [question], [0, 0, 1])
    for a, b in zip(alone, grouped, strict=True):
        assert a is not None
        assert b is not None
        assert dict(a.answers["q"]) == pytest.approx(dict(b.answers["q"]), abs=1e-6)
        assert a.mass == pytest.approx(b.mass, rel=1e-4)


def test_answers_that_no_token_tells_apart_are_an_error():
    with pytest.raises(CompatibilityError, match="tells the answers apart"):
        read_texts(tiny_model(), ["Q"], [Question("q", ":", ("S1", "S10"))])


def scripted_model(safe: float, unsafe: float) -> LanguageModel:
    """A model whose logits are the same everywhere: `safe` for s, `unsafe` for u, 1 for every other byte."""
    lm = tiny_model()
    s, u = encoded(lm.tokenizer, "su")
    lm.network.lm_head.weight = torch.nn.Parameter(torch.zeros(258, lm.width), requires_grad=False)
    lm.network.lm_head.bias = torch.nn.Parameter(torch.ones(258), requires_grad=False)
    lm.network.lm_head.bias[s], lm.network.lm_head.bias[u] = safe, unsafe
    return lm


def test_hand_computed_logits():
    (verdict,) = GenerativeGuard(scripted_model(2.0, 0.0), FAMILIES.get("llama-guard-3"), min_mass=0.0).judge([PAIR])
    assert verdict.p_safe == pytest.approx(0.88080)  # 1 / (1 + e^-2)
    (verdict,) = GenerativeGuard(scripted_model(12.0, 10.0), FAMILIES.get("llama-guard-3")).judge([PAIR])
    assert verdict.p_safe == pytest.approx(0.88080)
    assert not verdict.categories


def test_a_long_response_is_cut_and_says_so():
    guard = GenerativeGuard(tiny_model(), FAMILIES.get("wildguard"), max_response_tokens=50, min_mass=0.0)
    whole, cut, same = guard.judge([PAIR, LONG, Conversation.from_prompt("Tell me a story.").with_response(LONG.response[:50])])
    assert (whole.truncated, cut.truncated, same.truncated) == (False, True, False)
    assert cut.p_safe == same.p_safe


def test_a_prompt_beyond_the_window_is_ungraded():
    lm = tiny_model("gpt2")  # 512 positions
    guard = GenerativeGuard(lm, FAMILIES.get("wildguard"), min_mass=0.0)
    short, long = guard.judge([PAIR, Conversation.from_prompt("a" * 400).with_response("b")])
    assert short.p_safe is not None
    assert long.ungraded == "longer than the guard's 512 tokens"


def test_a_model_of_another_family_is_ungraded_not_safe():
    (verdict,) = GenerativeGuard(tiny_model(), FAMILIES.get("llama-guard-3")).judge([PAIR])
    assert verdict.ungraded is not None
    assert "llama-guard-3" in verdict.ungraded


def test_batches_of_any_size_give_the_same(monkeypatch):
    conversations = [PAIR, LONG, PAIR.with_response("Hi."), Conversation.from_prompt("Why?").with_response("")]
    monkeypatch.setattr("softguard.guards.generative._TOGETHER", 3)
    one = GenerativeGuard(tiny_model(), FAMILIES.get("qwen3guard"), min_mass=0.0, token_budget=1)
    many = GenerativeGuard(tiny_model(), FAMILIES.get("qwen3guard"), min_mass=0.0, token_budget=100_000)
    for a, b in zip(one.judge(conversations), many.judge(conversations), strict=True):
        assert a.p_safe == pytest.approx(b.p_safe, abs=2e-5)


def test_unsafe_verdicts_name_their_categories(monkeypatch):
    guard = GenerativeGuard(scripted_model(10.0, 12.0), FAMILIES.get("llama-guard-3"))
    monkeypatch.setattr(guard.lm.tokenizer, "decode", lambda ids, **_: "S2,S10\nmore")
    for verdict in guard.judge([PAIR, LONG]):
        assert verdict.p_safe == pytest.approx(0.11920)
        assert dict(verdict.categories) == {"Non-Violent Crimes": 0.8808, "Hate": 0.8808}


def test_the_continuation_begins_after_the_verdict(monkeypatch):
    guard = GenerativeGuard(scripted_model(10.0, 12.0), FAMILIES.get("llama-guard-3"))
    continued = []
    monkeypatch.setattr("softguard.guards.generative.sample", lambda lm, prompts, *_, **__: continued.extend(prompts) or [])
    with pytest.raises(ValueError, match="zip"):
        guard.judge([PAIR])
    assert guard.lm.tokenizer.decode(continued[0]).endswith("<|end_header_id|>\n\nunsafe\n")


def test_a_family_without_a_format_of_ours_takes_the_weights_template():
    lm = tiny_model()
    lm.tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}>{% endif %}"
    )
    guard = GenerativeGuard(lm, FAMILIES.get("llama-guard-4"), min_mass=0.0)
    turns = Conversation((Message("system", "Be brief."), *PAIR.messages))
    assert dict(guard.prompts(turns)) == {"": "[user]Name a river.[assistant]The Rhine.>"}
    assert guard.judge([turns])[0].p_safe is not None
    lm.tokenizer.chat_template = None
    with pytest.raises(CompatibilityError, match="chat template"):
        guard.judge([PAIR])


def test_special_tokens_of_the_tokenizer_are_defused():
    guard = GenerativeGuard(tiny_model(), FAMILIES.get("wildguard"))
    prompt = guard.prompts(PAIR.with_response("done<|im_end|>"))[""]
    assert "<|im_end|>" not in prompt
    assert "done" in prompt


def test_registered_models_say_that_nobody_ran_them():
    models = [GUARDS.get(name) for name in GUARDS if isinstance(GUARDS.get(name), GuardModel)]
    assert len(models) >= 15
    assert all("format only" in m.description and m.family in FAMILIES for m in models)


def test_a_guard_of_a_server_address_asks_the_server():
    model = GUARDS.get("llama-guard-3-8b")
    assert isinstance(model, GuardModel)
    assert model.at("http://127.0.0.1:1/v1").name == "llama-guard-3-8b"
    four = GUARDS.get("wildguard")
    assert isinstance(four, GuardModel)
    with pytest.raises(ConfigError, match="url"):
        four.at("http:// /v1")
