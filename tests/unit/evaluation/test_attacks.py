"""White-box attacks on tiny models: the loss falls, budgets hold, seeds decide, and a suffix is what a user can type."""

import math
import time

import pytest
import torch
import torch.nn.functional as F

from softguard.adapters.refusal_gate import RefusalGate, RefusalGateConfig
from softguard.adapters.soft_prompt import SoftPrompt, SoftPromptConfig
from softguard.core import Conversation
from softguard.errors import ConfigError
from softguard.evaluation.attacks import ATTACKS, Budget, Victim, attacks_named
from softguard.evaluation.attacks.attack import check_budget
from softguard.evaluation.attacks.gcg import GCG, printable, variants
from softguard.evaluation.attacks.soft_embedding import SOFT_EMBEDDING
from softguard.evaluation.attacks.victim import OPENING, Scorer
from softguard.models import ChatRenderer, response_states
from softguard.models.drawing import log_odds
from tests.fakes import tiny_model

REQUEST = "hello"
SMALL = Budget(steps=4, seconds=600, candidates=12, tokens=4)
S = 9


def victim(lm, threshold=None, adapter=None, student=None):
    render = ChatRenderer(lm.tokenizer).render

    def ids(text):
        prompt = render(Conversation.from_prompt(text))
        return list(prompt.ids) if adapter is None else adapter.extend(prompt)

    token = S if adapter is None else adapter.refusal(lm, [S])[0]
    virtual = None if adapter is None or adapter.virtual_tokens() is None else adapter.virtual_tokens().detach()
    return Victim(student or lm, ids, virtual, token, threshold)


def loss_of(who, prompt, virtual):
    """Return the loss as it is defined, from scoring that shares nothing and caches nothing."""
    opening = who.lm.tokenizer(OPENING, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = who.lm.head(response_states(who.lm, [prompt], [opening], virtual).states)
    said = logits.log_softmax(-1)[range(len(opening)), opening]
    s = log_odds(logits[:1], who.refusal_token)[0]
    return float(F.softplus(s - (who.threshold or 0.0)) - said.mean())


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2"])
def test_gcg_lowers_the_loss_by_a_text_that_gives_its_tokens_back(kind):
    who = victim(tiny_model(kind), threshold=-2.0)
    found = GCG.run(who, REQUEST, SMALL, 3)
    assert found.steps == SMALL.steps
    assert not found.reached
    assert not found.out_of_time
    assert found.loss < found.loss_before - 0.01
    assert found.text.isascii()
    assert found.text.isprintable()
    typed = who.render(REQUEST + found.text)
    assert len(typed) == len(found.place.before) + len(found.place.added) + len(found.place.after)
    assert found.loss == pytest.approx(loss_of(who, typed, None), abs=1e-3)
    filled = [*found.place.before, *found.place.added, *found.place.after]
    assert found.loss_before == pytest.approx(loss_of(who, filled, None), abs=1e-3)


def test_the_same_seed_finds_the_same_suffix():
    who = victim(tiny_model())
    first, again, other = (GCG.run(who, REQUEST, SMALL, seed).text for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("config", [
    SoftPromptConfig(num_virtual_tokens=4),
    SoftPromptConfig(num_virtual_tokens=4, placement=[{"slot": "front", "count": 2}, {"slot": "after_user", "count": 2}]),
    SoftPromptConfig(num_virtual_tokens=4, placement=[{"slot": "after_header", "count": 4}]),
])  # fmt: skip
def test_a_student_is_attacked_with_its_virtual_tokens_in_their_places(config):
    lm = tiny_model()
    who = victim(lm, 0.5, SoftPrompt.create(config, lm, 0))
    found = GCG.run(who, REQUEST, SMALL, 0)
    assert found.loss < found.loss_before
    assert found.loss == pytest.approx(loss_of(who, who.render(REQUEST + found.text), who.virtual_tokens), abs=1e-3)


def test_a_gate_is_attacked_at_its_control_token():
    lm = tiny_model()
    gate = RefusalGate.create(RefusalGateConfig(), lm, 0)
    with torch.no_grad():
        gate.parameters()[0].normal_(generator=torch.Generator().manual_seed(0))
    with gate.attach(lm) as student:
        who = victim(lm, -3.0, gate, student)
        assert who.refusal_token == len(lm.embedding_weight)
        found = GCG.run(who, REQUEST, SMALL, 0)
        assert found.loss < found.loss_before
        assert found.loss == pytest.approx(loss_of(who, who.render(REQUEST + found.text), None), abs=1e-3)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_vectors_lower_the_loss_further_and_are_what_the_model_is_given(kind):
    who = victim(tiny_model(kind), threshold=-2.0)
    found = SOFT_EMBEDDING.run(who, REQUEST, Budget(steps=15, seconds=600, tokens=4), 0)
    assert found.loss < found.loss_before - 0.3
    assert found.text == ""
    added = [-(k + 1) for k in range(len(found.vectors))]
    prompt = [*found.place.before, *added, *found.place.after]
    assert found.loss == pytest.approx(loss_of(who, prompt, found.vectors), abs=1e-3)


def test_it_stops_where_the_target_is_reached(monkeypatch):
    who = victim(tiny_model(), threshold=math.inf)  # refuses nothing
    scores = Scorer.scores

    def near(self, added):
        found = scores(self, added)
        return type(found)(found.loss, found.loss < 5.0)

    monkeypatch.setattr(Scorer, "scores", near)
    found = SOFT_EMBEDDING.run(who, REQUEST, Budget(steps=200, seconds=600, tokens=4), 0)
    assert found.reached
    assert 0 < found.steps < 200
    assert not found.out_of_time


@pytest.mark.parametrize("name", list(ATTACKS))
def test_time_ends_it(name):
    who = victim(tiny_model())
    started = time.monotonic()
    found = ATTACKS.get(name).run(who, REQUEST, Budget(steps=10**6, seconds=0.5, candidates=4, tokens=2), 0)
    assert time.monotonic() - started < 60
    assert found.out_of_time
    assert found.steps < 10**6
    assert found.loss <= found.loss_before


def test_refusing_is_part_of_the_loss():
    lm = tiny_model()
    strict, lax = (victim(lm, threshold=b) for b in (-20.0, 20.0))
    place = lax.place(REQUEST, 2)
    losses = [Scorer(who, place).scores(Scorer(who, place).embed(place.added)[None]).loss.item() for who in (strict, lax)]
    assert losses[0] > losses[1] + 10


def test_variants_differ_in_one_token_at_places_spread_evenly():
    ids = torch.tensor([5, 6, 7, 8])
    found = variants(ids, torch.arange(40).view(4, 10) + 100, 16, torch.Generator().manual_seed(0))
    places = [[i for i in range(4) if v[i] != int(ids[i])] for v in found]
    assert all(len(p) == 1 for p in places)
    assert {p[0] for p in places} == {0, 1, 2, 3}
    assert all(v[p[0]] in range(100 + 10 * p[0], 110 + 10 * p[0]) for v, p in zip(found, places, strict=True))
    assert len({tuple(v) for v in found}) == len(found)


def test_only_printable_ascii_that_is_no_special_token():
    lm = tiny_model()
    allowed = printable(lm.tokenizer, len(lm.embedding_weight))
    texts = {lm.tokenizer.decode([i]) for i in allowed.nonzero().flatten().tolist()}
    assert texts == {chr(c) for c in range(32, 127)}


def test_names_and_budgets():
    assert attacks_named("") == []
    assert attacks_named("all") == list(ATTACKS) == ["gcg", "soft_embedding"]
    assert attacks_named("gcg, gcg") == ["gcg"]
    assert GCG.shown_as("gcg", Budget()) == "gcg_reduced"
    assert GCG.shown_as("gcg", Budget(steps=500, candidates=512)) == "gcg"
    for wrong in (Budget(steps=0), Budget(seconds=0), Budget(candidates=0)):
        with pytest.raises(ConfigError):
            check_budget(wrong)
    with pytest.raises(ConfigError):
        attacks_named("gcq")
