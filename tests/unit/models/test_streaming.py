"""An answer as it is made has the tokens of the batch form, shows whole characters only, and can be left at any token."""

import pytest
import torch

from softguard.models import ChatRenderer, KnownPrefix, sample, stream
from tests.fakes import tiny_model

PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 20], [5, 6, 7, 8, 9, 10, 11, 12, 13, 21, 22]]
KEYS = ["a", "b"]


def options(**changed):
    return {"max_new_tokens": 24, "temperature": 1.0, "seed": 3, "refusal_token": 65} | changed


@pytest.fixture(scope="module")
def lm():
    return tiny_model()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3", "gpt2"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_tokens_are_those_of_the_batch_form(kind, temperature):
    lm = tiny_model(kind)
    renderer = ChatRenderer(lm.tokenizer)
    together = sample(lm, PROMPTS, KEYS, **options(temperature=temperature))
    known = KnownPrefix.of(lm, PROMPTS, None)
    assert len(known.ids) == 9
    for prompt, key, expected in zip(PROMPTS, KEYS, together, strict=True):
        for prefix in (None, known.before(prompt)):
            steps = list(stream(lm, renderer, prompt, key, **options(temperature=temperature), prefix=prefix))
            assert [s.tokens for s in steps] == list(range(1, len(expected.ids) + 1))
            assert [s.done is None for s in steps] == [True] * (len(steps) - 1) + [False]
            assert steps[-1].done.ids == expected.ids
            assert steps[-1].done.truncated == expected.truncated
            assert steps[-1].done.refusal_log_odds == pytest.approx(expected.refusal_log_odds, abs=1e-3)
            assert "".join(s.text for s in steps) == renderer.decode(expected.ids)


def test_virtual_tokens_and_the_operating_point_count(lm):
    virtual = torch.randn(4, lm.width)
    prompt = [-1, -2, -3, -4, *PROMPTS[0]]
    renderer = ChatRenderer(lm.tokenizer)
    given = options(virtual_tokens=virtual, temperature=0.0)
    expected = sample(lm, [prompt], ["a"], **given)[0]
    s = expected.refusal_log_odds
    refusing = list(stream(lm, renderer, prompt, "a", **given, refuse_above=s - 1))
    assert [(r.text, r.tokens, r.done.refused, r.done.ids) for r in refusing] == [("", 0, True, ())]
    answering = list(stream(lm, renderer, prompt, "a", **given, refuse_above=s + 1))
    assert answering[-1].done.ids == sample(lm, [prompt], ["a"], **given, refuse_above=s + 1)[0].ids
    assert answering[-1].done.ids[0] != 65


def test_half_a_character_waits_for_its_other_half(lm, monkeypatch):
    said = [*lm.tokenizer("  né €!  ", add_special_tokens=False)["input_ids"], lm.tokenizer.eos_token_id]
    script = iter(said)
    monkeypatch.setattr("softguard.models.decoding.choose", lambda logits, *_: torch.tensor([next(script)]))
    steps = list(stream(lm, ChatRenderer(lm.tokenizer), PROMPTS[0], "a", **options()))
    pieces = [s.text for s in steps]
    assert "".join(pieces) == "né €!"
    assert [p for p in pieces if p] == ["n", "é", " €", "!"]
    assert len(pieces) == len(said)


def test_two_streams_of_one_model_take_turns_and_do_not_meet(lm):
    renderer = ChatRenderer(lm.tokenizer)
    known = KnownPrefix.of(lm, PROMPTS, None)
    alone = [list(stream(lm, renderer, p, k, **options(), prefix=known.before(p))) for p, k in zip(PROMPTS, KEYS, strict=True)]
    running = [stream(lm, renderer, p, k, **options(), prefix=known.before(p)) for p, k in zip(PROMPTS, KEYS, strict=True)]
    turns = [[], []]
    for _ in range(24):
        for mine, one in zip(turns, running, strict=True):
            mine += [s for s in [next(one, None)] if s is not None]
    assert turns == alone
    left = stream(lm, renderer, PROMPTS[0], "a", **options())
    next(left)
    left.close()
    assert list(left) == []


def test_a_prefix_serves_only_prompts_that_begin_with_it_and_go_on(lm):
    known = KnownPrefix.of(lm, PROMPTS, None)
    assert known.before(PROMPTS[0]) is known.shared
    assert known.before(PROMPTS[0][:9]) is None
    assert known.before([1, *PROMPTS[0]]) is None
    assert KnownPrefix.of(lm, [[1, 2], [3, 4]], None).before([1, 2, 3]) is None
