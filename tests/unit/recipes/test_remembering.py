"""What is kept by content: read back whole, shared by processes, and never an ungraded verdict."""

import json

import pytest
import torch

from softguard.core import Conversation, Reply, ReplySettings, Verdict
from softguard.core.ungraded import UngradedTally
from softguard.evaluation.judgement import Judgement
from softguard.evaluation.judges import Answered
from softguard.recipes.remembering import RememberingGuard, Store, digest, remembered_judgements, remembered_replies


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTGUARD_CACHE", str(tmp_path))
    return tmp_path


def test_a_store_is_read_back_and_bound_to_what_made_it(cache):
    store = Store("answers", "model", 4)
    assert "a" not in store
    store.add({"a": 1, "b": [float("inf")]})
    store.add({})
    other = Store("answers", "model", 4)
    other.add({"c": "\u2028"})
    again = Store("answers", "model", 4)
    assert (again["a"], again["b"], again["c"]) == (1, [float("inf")], "\u2028")
    assert "a" not in Store("answers", "model", 5)
    assert not list(cache.rglob("*.partial"))


def test_a_digest_is_that_of_the_values():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest("a", "b") != digest("ab")


class Failing:
    """Cannot judge what it is asked first; counts what it is asked."""

    name = fingerprint = "failing"

    def __init__(self):
        self.asked = []

    def judge(self, items):
        self.asked += items
        return [self.verdict(len(self.asked) > 3) for _ in items]

    @staticmethod
    def verdict(graded):
        return Verdict(0.25, {"harm": 0.75}) if graded else Verdict(ungraded="timeout")


def test_a_guard_judges_no_pair_twice_but_what_it_could_not_grade():
    guard = Failing()
    remembering = RememberingGuard(guard)
    pairs = [Conversation.from_prompt(p).with_response("r") for p in ("x", "y", "x")]
    first = remembering.judge(pairs)
    assert [v.ungraded for v in first] == ["timeout"] * 3
    assert len(guard.asked) == 2
    second = remembering.judge(pairs)
    assert [v.p_safe for v in second] == [0.25] * 3
    assert second[0].categories == {"harm": 0.75}
    assert len(guard.asked) == 4
    assert RememberingGuard(guard).judge(pairs) == second
    assert len(guard.asked) == 4
    assert (remembering.name, remembering.fingerprint) == ("failing", "failing")


def test_judgements_are_kept_by_answer_and_by_whether_it_refuses():
    class Judge(Failing):
        @staticmethod
        def verdict(graded):
            return Judgement(0.5)

    judge, seen = Judge(), []
    pair = Conversation.from_prompt("x").with_response("r")
    given = [Answered(pair, False), Answered(pair, True), Answered(pair, False)]
    for _ in range(2):
        made = remembered_judgements(judge, given, UngradedTally("judge"), lambda done, total: seen.append((done, total)))
        assert [j.harm for j in made] == [0.5] * 3
    assert len(judge.asked) == 2
    assert seen[-1] == (3, 3)


def test_a_lines_end_within_an_answer_does_not_cut_it():
    store = Store("answers", "x")
    store.add({"k": "one\u2028two\x85three"})
    assert json.dumps(Store("answers", "x")["k"]) == json.dumps("one\u2028two\x85three")


class Cramped:
    """A system with memory for few prompts at a time."""

    context = None

    def __init__(self, room):
        self.room, self.batches = room, []

    def prompt_length(self, conversation):
        return len(conversation.messages[-1].content)

    def respond(self, conversations, ids, settings, progress=None):
        if len(conversations) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.batches.append(len(conversations))
        return [Reply(c.messages[-1].content.upper(), 0.0) for c in conversations]


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost():
    asked = [Conversation.from_prompt(f"prompt {i:02}") for i in range(21)]
    system, seen = Cramped(6), []
    replies = remembered_replies(system, Store("answers", "cramped"), asked, ReplySettings(4), lambda *done: seen.append(done))
    assert [r.text for r in replies] == [f"PROMPT {i:02}" for i in range(21)]
    assert system.batches == [5, 5, 5, 5, 1]  # 21, 10, then what fits, and no large one is tried again
    assert seen[0] == (0, 21)
    with pytest.raises(torch.OutOfMemoryError):
        remembered_replies(Cramped(0), Store("answers", "none"), asked, ReplySettings(4))
    assert all(digest(c.to_dicts()) in Store("answers", "cramped") for c in asked)
