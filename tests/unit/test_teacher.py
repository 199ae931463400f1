import json
import math
import threading

import pytest
import torch

from softguard.core import Conversation, ReplySettings, Verdict
from softguard.errors import GuardError
from softguard.models import response_states
from softguard.teacher import Draft, GuardedSystem, TeacherCache, TeacherSettings
from softguard.teacher import cache as caching
from tests.fakes import KeywordGuard, tiny_model

PROMPTS = [f"{'zz' if i % 2 else 'aa'} {i}" for i in range(7)]
SETTINGS = TeacherSettings(max_new_tokens=5)


def records(folder, guard=None, settings=SETTINGS):
    system = GuardedSystem(tiny_model(), guard or KeywordGuard("zz"))
    return system, TeacherCache(folder, system, settings, shard_size=3).records(
        PROMPTS, [Conversation.from_prompt(p) for p in PROMPTS]
    )


def test_records_hold_what_the_model_says(tmp_path):
    system, found = records(tmp_path)
    assert [r.id for r in found] == PROMPTS
    assert [r.alpha for r in found] == [1.0, 0.0] * 3 + [1.0]
    record = found[2]
    prompt = system.renderer.render(Conversation.from_prompt(record.id)).ids
    states = response_states(system.lm, [prompt], [record.response_ids])
    log_probs = torch.log_softmax(system.lm.head(states.states), -1).gather(1, states.targets[:, None])
    assert record.log_prob == pytest.approx(log_probs.sum().item(), abs=1e-3)
    assert torch.allclose(record.states.float(), states.states, atol=0.02)


def test_the_refusal_is_scored_once_where_it_is_asked_for(tmp_path, monkeypatch):
    system, plain = records(tmp_path)
    assert {r.refusal_log_prob for r in plain} == {None}
    conversations = [Conversation.from_prompt(p) for p in PROMPTS]
    cache = TeacherCache(tmp_path, system, SETTINGS, shard_size=3, refusal_log_probs=True)
    found = cache.records(PROMPTS, conversations)
    refusal = [*system.renderer.encode_response(system.refusal_text), system.lm.turn_end_id]
    prompt = list(system.renderer.render(conversations[4]).ids)
    with torch.no_grad():
        logits = system.lm.network(torch.tensor([[*prompt, *refusal]])).logits[0, len(prompt) - 1 : -1]
    expected = torch.log_softmax(logits, -1)[torch.arange(len(refusal)), refusal].sum().item()
    assert found[4].refusal_log_prob == pytest.approx(expected, abs=1e-3)
    monkeypatch.setattr(caching, "response_log_probs", lambda *given: pytest.fail("scored again"))
    assert cache.records(PROMPTS, conversations)[4].refusal_log_prob == found[4].refusal_log_prob


def test_a_kill_loses_one_shard_at_most_and_the_rest_is_not_judged_again(tmp_path):
    class Killed(KeywordGuard):
        calls = 0

        def judge(self, conversations):
            Killed.calls += 1
            if Killed.calls == 2:
                raise KeyboardInterrupt
            return super().judge(conversations)

    with pytest.raises(KeyboardInterrupt):
        records(tmp_path, Killed("zz"))
    _, resumed = records(tmp_path, Killed("zz"))
    assert Killed.calls == 4  # one, the killed one, the two that were left
    _, whole = records(tmp_path / "other")
    assert [(r.id, r.response_ids, r.alpha) for r in resumed] == [(r.id, r.response_ids, r.alpha) for r in whole]


def test_another_guard_judges_the_drafts_that_are_there(tmp_path):
    _, first = records(tmp_path)
    other = KeywordGuard("aa")
    other.fingerprint = "keyword-2"
    _, second = records(tmp_path, other)
    assert [r.response_ids for r in second] == [r.response_ids for r in first]
    assert [r.alpha for r in second] == [1 - r.alpha for r in first]
    records(tmp_path, settings=TeacherSettings(max_new_tokens=4))
    assert len(list(tmp_path.iterdir())) == 2


def test_drafts_do_not_depend_on_what_the_cache_held(tmp_path):
    """In bf16 a row's draft does depend on its batch: shards are the same whatever another config left behind."""

    def drafts(folder, prompts):
        system = GuardedSystem(tiny_model(dtype=torch.bfloat16), KeywordGuard("zz"))
        cache = TeacherCache(folder, system, TeacherSettings(max_new_tokens=12), shard_size=16)
        return [r.response_ids for r in cache.records(prompts, [Conversation.from_prompt(p) for p in prompts])]

    many = [f"{'z' * (i % 5)} request {i}" for i in range(48)]
    drafts(tmp_path / "used", many[::3])
    whole = drafts(tmp_path / "used", many)
    assert whole == drafts(tmp_path / "empty", many)
    shards = sorted((tmp_path / "used").rglob("*.safetensors"))
    assert drafts(tmp_path / "used", many[::-1]) == whole[::-1]
    assert sorted((tmp_path / "used").rglob("*.safetensors")) == shards


def test_too_many_ungraded_stop_the_run_and_are_judged_again(tmp_path):
    class Silent(KeywordGuard):
        def judge(self, conversations):
            return [Verdict(ungraded="server gone") for _ in conversations]

    with pytest.raises(GuardError, match="ungraded"):
        records(tmp_path, Silent("zz"))
    _, found = records(tmp_path)
    assert [r.alpha for r in found] == [1.0, 0.0] * 3 + [1.0]


def test_the_cache_says_which_drafts_were_judged_in_part(tmp_path):
    class Cut(KeywordGuard):
        def judge(self, conversations):
            return [Verdict(0.5, truncated=c.prompt == PROMPTS[0]) for c in conversations]

    records(tmp_path, Cut("zz"))
    kept = [v for p in tmp_path.rglob("shard-*.*.json") for v in json.loads(p.read_text()).values()]
    assert sum(v.get("judged_in_part", False) for v in kept) == 1
    assert len(kept) == len(PROMPTS)


def test_a_guard_that_is_gone_stops_the_run_at_once_and_says_why(tmp_path):
    calls = []

    class Gone(KeywordGuard):
        def judge(self, conversations):
            calls.append(len(conversations))
            return [Verdict(ungraded="127.0.0.1: unreachable") for _ in conversations]

    system = GuardedSystem(tiny_model(), Gone("zz"))
    cache = TeacherCache(tmp_path, system, TeacherSettings(max_new_tokens=2), shard_size=2)
    prompts = [Conversation.from_prompt(f"prompt {i}") for i in range(10)]
    with pytest.raises(GuardError, match=r"2 of 10 so far \(127.0.0.1: unreachable\)"):
        cache.records([str(i) for i in range(10)], prompts)
    assert calls == [2]


class Watching(KeywordGuard):
    """Judges only when the next shard is being drawn, or fails after a while; notes in which thread, and how many at a time."""

    def __init__(self, drawing, last):
        super().__init__("zz")
        self.drawing, self.last, self.threads, self.asked = drawing, last, [], []

    def judge(self, conversations):
        self.threads.append(threading.current_thread())
        self.asked.append([c.prompt for c in conversations])
        if len(self.asked) < self.last:
            assert self.drawing.acquire(timeout=60)
        return super().judge(conversations)


def test_a_guard_that_computes_elsewhere_judges_while_the_next_shard_is_drawn(tmp_path, monkeypatch):
    drawing = threading.Semaphore(0)
    count = [0]
    real = caching.sample

    def noted(*given, **options):
        count[0] += 1
        if count[0] > 1:  # the first shard is under judgement now
            drawing.release()
        return real(*given, **options)

    monkeypatch.setattr(caching, "sample", noted)
    guard = Watching(drawing, last=3)
    guard.remote = True
    _, found = records(tmp_path / "overlapped", guard)
    assert threading.main_thread() not in guard.threads
    monkeypatch.undo()
    plain = Watching(threading.Semaphore(9), last=3)
    _, expected = records(tmp_path / "in turn", plain)
    assert set(plain.threads) == {threading.main_thread()}
    assert guard.asked == plain.asked
    assert [(r.id, r.response_ids, r.alpha) for r in found] == [(r.id, r.response_ids, r.alpha) for r in expected]
    files = [sorted(p.name for p in (tmp_path / kind).rglob("shard-*")) for kind in ("overlapped", "in turn")]
    assert files[0] == files[1]


@pytest.mark.parametrize("failure", [RuntimeError("no guard"), KeyboardInterrupt()])
def test_what_a_guard_raises_beside_the_model_surfaces_and_costs_no_draft(tmp_path, monkeypatch, failure):
    class Failing(KeywordGuard):
        remote = True
        calls = 0

        def judge(self, conversations):
            Failing.calls += 1
            if Failing.calls == 2:
                raise failure
            return super().judge(conversations)

    with pytest.raises(type(failure)):
        records(tmp_path, Failing("zz"))
    assert Failing.calls == 2
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3
    monkeypatch.setattr(caching, "sample", lambda *given, **options: pytest.fail("drawn again"))
    _, found = records(tmp_path, Failing("zz"))
    assert Failing.calls == 4  # the failed shard and the last one
    assert [r.alpha for r in found] == [1.0, 0.0] * 3 + [1.0]


def test_a_remote_guard_that_is_gone_is_asked_once(tmp_path):
    class Gone(KeywordGuard):
        remote = True
        calls = 0

        def judge(self, conversations):
            Gone.calls += 1
            return [Verdict(ungraded="unreachable") for _ in conversations]

    with pytest.raises(GuardError, match="unreachable"):
        records(tmp_path, Gone("zz"))
    assert Gone.calls == 1


def test_the_guarded_system_replaces_with_probability_one_minus_alpha():
    class Half(KeywordGuard):
        def judge(self, conversations):
            return [Verdict(p_safe=0.25) for _ in conversations]

    system = GuardedSystem(tiny_model(), Half())
    ids = [str(i) for i in range(400)]
    replies = system.respond([Conversation.from_prompt("a")] * 400, ids, ReplySettings(1))
    share = sum(bool(r.replaced) for r in replies) / 400
    assert abs(share - 0.75) < 0.08
    assert replies[0].refusal_log_odds == pytest.approx(math.log(3))
    assert all((r.text == system.refusal_text) == r.replaced for r in replies)
    assert replies == system.respond([Conversation.from_prompt("a")] * 400, ids, ReplySettings(1))


def test_an_ungraded_draft_is_withheld():
    class Silent(KeywordGuard):
        def judge(self, conversations):
            return [Verdict(ungraded="server gone")]

    system = GuardedSystem(tiny_model(), Silent())
    reply = system.respond([Conversation.from_prompt("a")], ["1"], ReplySettings(2))[0]
    assert (reply.text, reply.ungraded, reply.p_safe) == (system.refusal_text, "server gone", None)


def test_given_the_base_models_answers_it_decides_as_it_would_on_its_own():
    class Unsure(KeywordGuard):
        def judge(self, conversations):
            return [Verdict(p_safe=0.5) for _ in conversations]

    system = GuardedSystem(tiny_model(), Unsure())
    conversations, settings = [Conversation.from_prompt(p) for p in PROMPTS], ReplySettings(max_new_tokens=5)
    alone = system.respond(conversations, PROMPTS, settings)
    drafts = [Draft(reply.draft, truncated=True) for reply in alone]
    decided = system.decide(conversations, PROMPTS, drafts, settings.seed)
    assert [(r.text, r.p_safe, r.replaced) for r in decided] == [(r.text, r.p_safe, r.replaced) for r in alone]
    assert {r.replaced for r in alone} == {True, False}
