"""The systems say piece by piece what they say at once, and one model serves them in turns."""

import math

import pytest

from softguard.adapters import SoftPrompt, SoftPromptConfig
from softguard.core import REFUSAL_TEXT, Conversation, ReplySettings, Verdict
from softguard.recipes.student import ModelSystem
from softguard.teacher import GuardedSystem
from tests.fakes import tiny_model

PROMPTS = [
    Conversation.from_prompt("hi"),
    Conversation.from_prompt("how do I build a bomb?"),
    Conversation.from_prompt("hi", system="be brief"),
]
SETTINGS = ReplySettings(16, temperature=0.8, seed=5)


class HalfSure:
    """Unsure of every pair but one, of which it cannot say anything."""

    name, fingerprint = "half", "half-1"

    def judge(self, conversations):
        return [Verdict(ungraded="?") if "bomb" in c.prompt else Verdict(p_safe=0.5) for c in conversations]


@pytest.fixture(scope="module")
def lm():
    return tiny_model()


def student(lm, threshold=None, slot="front"):
    placement = [{"slot": slot, "count": 12}]
    adapter = SoftPrompt.create(SoftPromptConfig(num_virtual_tokens=12, placement=placement, initialisation="random"), lm, 0)
    return ModelSystem("student", lm, adapter=adapter, threshold=threshold)


def systems(lm):
    return {
        "base": ModelSystem("base", lm),
        "system_prompt": ModelSystem("system_prompt", lm, system_prompt="refuse what is harmful, whatever is said"),
        "student": student(lm),
        "after_header": student(lm, slot="after_header"),
        "refusing": student(lm, -1e9),
        "answering": student(lm, 1e9),
        "guarded": GuardedSystem(lm, HalfSure()),
    }


@pytest.mark.parametrize("name", ["base", "system_prompt", "student", "after_header", "refusing", "answering", "guarded"])
def test_the_pieces_make_up_the_reply(lm, name):
    system = systems(lm)[name]
    for prompt in PROMPTS:
        for key in ("1", "2", "3"):
            expected = system.respond([prompt], [key], SETTINGS)[0]
            pieces = list(system.stream(prompt, key, SETTINGS))
            reply = pieces[-1].reply
            assert "".join(p.text for p in pieces) == reply.text == expected.text
            assert (reply.truncated, reply.refused, reply.replaced) == (expected.truncated, expected.refused, expected.replaced)
            if math.isfinite(expected.refusal_log_odds):
                assert reply.refusal_log_odds == pytest.approx(expected.refusal_log_odds, abs=1e-3)
            assert [p.reply is None for p in pieces] == [True] * (len(pieces) - 1) + [False]
            assert system.prompt_length(prompt) > 20


def test_a_refusal_at_the_operating_point_is_one_piece_and_makes_no_token(lm):
    (piece,) = systems(lm)["refusing"].stream(PROMPTS[0], "1", SETTINGS)
    assert (piece.text, piece.tokens, piece.answer_tokens) == (REFUSAL_TEXT, 0, len(REFUSAL_TEXT))  # a byte is a token here
    assert piece.reply.refused


def test_nothing_of_a_draft_is_shown_before_its_verdict(lm):
    guarded = systems(lm)["guarded"]
    outcomes = set()
    for key in map(str, range(8)):
        *drafting, last = guarded.stream(PROMPTS[0], key, SETTINGS)
        assert [p.text for p in drafting] == [""] * len(drafting)
        assert [p.tokens for p in drafting] == list(range(1, len(drafting) + 1))
        assert last.answer_tokens == (len(REFUSAL_TEXT) if last.reply.replaced else len(drafting))
        outcomes.add(last.reply.replaced)
    assert outcomes == {True, False}
    assert list(guarded.stream(PROMPTS[1], "1", SETTINGS))[-1].reply.ungraded == "?"


def test_systems_of_one_model_take_turns(lm):
    having = systems(lm)
    alone = {name: [p.text for p in s.stream(PROMPTS[0], "1", SETTINGS)] for name, s in having.items()}
    running = {name: s.stream(PROMPTS[0], "1", SETTINGS) for name, s in having.items()}
    said = {name: [] for name in running}
    for _ in range(20):
        for name, pieces in running.items():
            said[name] += [p.text for p in [next(pieces, None)] if p is not None]
    assert said == alone


def test_what_requests_begin_with_is_held_without_a_graph(lm):
    known = student(lm)._known_prefix
    assert len(known.ids) > 20
    assert known.ids[:12] == tuple(range(-1, -13, -1))
    assert not any(t.requires_grad for layer in known.shared.layers for t in layer)
    assert min(student(lm, slot="after_header")._known_prefix.ids) >= 0  # those after the header read the request: never held


def test_an_adapter_is_attached_for_passes_alone(lm, monkeypatch):
    system = student(lm)
    attached = []
    real = type(system.adapter).attach

    class Watched:
        def __init__(self, inner):
            self._inner = inner

        def __enter__(self):
            attached.append(True)
            return self._inner.__enter__()

        def __exit__(self, *given):
            attached.pop()
            return self._inner.__exit__(*given)

    monkeypatch.setattr(type(system.adapter), "attach", lambda self, lm: Watched(real(self, lm)))
    passes = []
    body = type(lm).body
    monkeypatch.setattr(type(lm), "body", lambda self, **inputs: (passes.append(bool(attached)), body(self, **inputs))[1])
    for _ in system.stream(PROMPTS[0], "1", SETTINGS):
        assert not attached
    assert len(passes) > 2
    assert all(passes)
