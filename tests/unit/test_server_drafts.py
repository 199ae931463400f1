"""Drafts of a fake server that runs the tiny model: the same ids and states as here, and what becomes of every way to fail."""

import json
import math
import threading

import pytest
import torch

from softguard.core import Conversation
from softguard.errors import CompatibilityError, ConfigError, GuardError, RuntimeProgramError
from softguard.models import response_states, sample
from softguard.runtimes.server_client import ClientConfig, ServerClient
from softguard.teacher import DraftServerConfig, GuardedSystem, ServerDrafts, TeacherCache, TeacherSettings, load_draft_server
from softguard.teacher import cache as caching
from tests.fakes import KeywordGuard, tiny_model
from tests.unit.guards.fake_server import Answer, serving

PROMPTS = [f"{'zz' if i % 2 else 'aa'} {i}" for i in range(24)]
CONVERSATIONS = [Conversation.from_prompt(p) for p in PROMPTS]
SETTINGS = TeacherSettings(max_new_tokens=12)
CLIENT = ClientConfig(timeout_s=20, attempts=2, first_delay_s=0.01, in_flight=4)


class Server:
    """A completions endpoint around a tiny model; it may draw otherwise than asked."""

    def __init__(self, seed=0, gives_ids=True, temperature=None, top_k=0):
        self.lm, self.gives_ids, self.temperature, self.top_k = tiny_model(seed=seed), gives_ids, temperature, top_k
        self.lock = threading.Lock()  # fast tokenizers are not to be shared

    def __call__(self, path, request, number):
        with self.lock:
            return self.reply(request)

    def reply(self, request):
        prompt = request["prompt"]
        if isinstance(prompt, str):
            prompt = self.lm.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids = self.draw(prompt, request)
        ended = ids[-1] in self.lm.stop_ids
        text = self.lm.tokenizer.decode(ids, skip_special_tokens=True)
        choice = {"text": text, "finish_reason": "stop" if ended else "length"}
        if self.gives_ids and request.get("return_token_ids"):
            choice["token_ids"] = ids
        return Answer({"choices": [choice], "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(ids)}})

    def draw(self, prompt, request):
        t = request["temperature"] if self.temperature is None else self.temperature
        if not self.top_k:
            given = {"max_new_tokens": request["max_tokens"], "temperature": t, "seed": request["seed"], "refusal_token": 5}
            return list(sample(self.lm, [prompt], ["server"], **given)[0].ids)
        ids, generator = [], torch.Generator().manual_seed(request["seed"])
        while len(ids) < request["max_tokens"] and not (ids and ids[-1] in self.lm.stop_ids):
            with torch.no_grad():
                logits = self.lm.network(torch.tensor([[*prompt, *ids]])).logits[0, -1]
            top = logits.topk(self.top_k)
            ids.append(int(top.indices[torch.multinomial(top.values.softmax(-1), 1, generator=generator)]))
        return ids


def cache(folder, server, settings=SETTINGS, shard_size=12, client=CLIENT, lm=None, **chosen):
    config = DraftServerConfig(url=server.url, model="m", client=client, **chosen)
    drafts = ServerDrafts(config, ServerClient(server.url, client, {}, sleep=lambda _: None))
    system = GuardedSystem(lm or tiny_model(), KeywordGuard("zz"))
    return system, TeacherCache(folder, system, settings, shard_size=shard_size, drafts=drafts)


def test_drafts_are_the_servers_and_states_those_of_this_model(tmp_path):
    with serving(Server()) as server:
        system, made = cache(tmp_path, server)
        found = made.records(PROMPTS, CONVERSATIONS)
        requests = [r for _, r, _ in server.requests]
        again = cache(tmp_path, server)[1].records(PROMPTS, CONVERSATIONS)
        assert len(server.requests) == len(PROMPTS), "what is in the cache is not asked for again"
    assert [r.id for r in found] == PROMPTS
    assert [r.alpha for r in found] == [1.0, 0.0] * 12
    assert [r.response_ids for r in again] == [r.response_ids for r in found]
    assert {path for path, *_ in server.requests} == {"/v1/completions"}
    assert len({r["seed"] for r in requests}) == len(PROMPTS)
    assert all((r["temperature"], r["top_p"], r["top_k"], r["max_tokens"]) == (1.0, 1.0, -1, 12) for r in requests)
    prompts = [list(system.renderer.render(c).ids) for c in CONVERSATIONS]
    assert sorted(r["prompt"] for r in requests) == sorted(prompts)
    for prompt, record in zip(prompts, found, strict=True):
        states = response_states(system.lm, [prompt], [record.response_ids])
        log_probs = torch.log_softmax(system.lm.head(states.states), -1).gather(1, states.targets[:, None])
        assert record.log_prob == pytest.approx(log_probs.sum().item(), abs=1e-3)
        assert torch.allclose(record.states.float(), states.states, atol=0.02)
        assert record.truncated == (record.response_ids[-1] not in system.lm.stop_ids)
    rows = [row for path in tmp_path.rglob("shard-*.json") if path.name.count(".") == 1 for row in json.loads(path.read_text())]
    assert len(rows) == len(PROMPTS)
    assert not any("retokenised" in row for row in rows)


def test_the_seed_of_a_prompt_is_its_own(tmp_path):
    with serving(Server()) as server:
        whole = cache(tmp_path / "a", server)[1].records(PROMPTS, CONVERSATIONS)
        some = cache(tmp_path / "b", server, shard_size=3)[1].records(PROMPTS[::-3], CONVERSATIONS[::-3])
    assert [r.response_ids for r in some] == [r.response_ids for r in whole[::-3]]


@pytest.mark.parametrize("prompt", ["ids", "text"])
def test_from_text_alone_the_ids_are_those_of_the_text_and_it_is_recorded(tmp_path, prompt):
    class Plain(Server):
        """Says letters only, as a tokenizer of bytes can write them."""

        def draw(self, prompt, request):
            ids = [i for i in super().draw(prompt, request) if 32 < i < 90]
            return [*ids, self.lm.turn_end_id] if len(ids) < 12 else ids

    with serving(Plain(gives_ids=False)) as server:
        system, made = cache(tmp_path, server, prompt=prompt, max_gap=99.0)
        found = made.records(PROMPTS, CONVERSATIONS)
        assert all(isinstance(r["prompt"], str if prompt == "text" else list) for _, r, _ in server.requests)
    texts = [system.renderer.decode(r.response_ids) for r in found]
    assert [r.response for r in found] == texts
    assert any(texts)
    assert all(r.response_ids[-1] == system.lm.turn_end_id or r.truncated for r in found)
    rows = [row for path in tmp_path.rglob("shard-*.json") if path.name.count(".") == 1 for row in json.loads(path.read_text())]
    assert [row["retokenised"] for row in rows] == [True] * len(PROMPTS)


def test_a_character_that_was_cut_is_left_out(tmp_path):
    reply = Answer({"choices": [{"text": "ab\ufffd", "finish_reason": "length"}]})
    with serving(lambda *_: reply) as server:
        system, made = cache(tmp_path, server, max_gap=99.0)
        found = made.records(PROMPTS[:2], CONVERSATIONS[:2])
    assert found[0].response_ids == tuple(system.renderer.encode_response("ab"))
    assert found[0].truncated


@pytest.mark.parametrize(
    ("server", "why"),
    [
        (Server(seed=1), r"less probable: another model"),
        (Server(temperature=2.0), "less probable"),
        (Server(temperature=0.4), "more probable: a nucleus"),
        (Server(temperature=0.0), "more probable"),
        (Server(top_k=3), "more probable"),
    ],
)
def test_drafts_of_another_distribution_are_refused(tmp_path, server, why):
    with serving(server) as there:
        with pytest.raises(CompatibilityError, match=why):
            cache(tmp_path, there, shard_size=24)[1].records(PROMPTS, CONVERSATIONS)
        assert not list(tmp_path.rglob("shard-*"))


def test_a_gap_that_is_known_can_be_allowed(tmp_path):
    with serving(Server(seed=1)) as server:
        assert cache(tmp_path, server, max_gap=50.0)[1].records(PROMPTS[:3], CONVERSATIONS[:3])


def test_the_gap_of_the_models_own_drafts_is_chance(tmp_path):
    """Over many shards it goes to 0 as its stated error does: the test above is of a distribution, not of a margin."""
    from softguard.teacher.server_drafts import _score

    lm = tiny_model()
    render = GuardedSystem(lm, KeywordGuard()).renderer.render
    for temperature in (1.0, 0.5):
        prompts = [list(render(c).ids) for c in CONVERSATIONS] * 8
        keys = [str(i) for i in range(len(prompts))]
        given = {"max_new_tokens": 24, "temperature": temperature, "seed": 3, "refusal_token": 5}
        drafts = [list(g.ids) for g in sample(lm, prompts, keys, **given)]
        scored = _score(lm, prompts, drafts, temperature)
        assert 0 < scored.error < 0.05
        assert abs(scored.gap) < 3 * scored.error
        other = _score(lm, prompts, drafts, 0.75)
        assert abs(other.gap) > 10 * other.error
    assert math.isclose(sum(map(len, scored.states)), sum(map(len, drafts)))


def test_greedy_drafts_are_held_against_greedy_ones(tmp_path):
    greedy = TeacherSettings(max_new_tokens=12, temperature=0.0)
    with serving(Server()) as server:
        cache(tmp_path, server, settings=greedy)[1].records(PROMPTS, CONVERSATIONS)
    with serving(Server(temperature=1.0)) as server, pytest.raises(CompatibilityError, match="less probable"):
        cache(tmp_path / "other", server, settings=greedy)[1].records(PROMPTS, CONVERSATIONS)


def choice(**given):
    return Answer({"choices": [{"text": "a", "finish_reason": "length", **given}]})


@pytest.mark.parametrize(
    ("reply", "error", "why"),
    [
        (Answer({}, status=503), RuntimeProgramError, r"12 of 12 without one \(127.0.0.1: .*; finished shards are kept"),
        (Answer({}, status=400), RuntimeProgramError, "status 400"),
        (Answer({"choices": []}), RuntimeProgramError, "a reply without a text"),
        (Answer({"choices": [None], "usage": []}), RuntimeProgramError, "a reply without a text"),
        (choice(finish_reason="content_filter"), RuntimeProgramError, "ended by 'content_filter'"),
        (choice(token_ids=[3, 100000]), CompatibilityError, "a token numbered 100000"),
        (choice(token_ids=[3, 4, 5]), CompatibilityError, "12 of 12 from 127.0.0.1 that it does not"),
        (Answer({"choices": [], "usage": {"prompt_tokens": 1}}), CompatibilityError, "found 1 on 127.0.0.1"),
    ],
)
def test_what_a_server_may_say_instead(tmp_path, reply, error, why):
    with serving(lambda *_: reply) as server, pytest.raises(error, match=why):
        cache(tmp_path, server)[1].records(PROMPTS, CONVERSATIONS)
    assert not list(tmp_path.rglob("shard-*"))


def test_a_server_that_goes_away_loses_no_finished_shard(tmp_path):
    there = Server()
    with serving(lambda *given: there(*given) if given[2] < 15 else Answer({}, status=500)) as server:
        with pytest.raises(RuntimeProgramError, match="9 of 12 without one"):
            cache(tmp_path, server, client=CLIENT.model_copy(update={"in_flight": 1}))[1].records(PROMPTS, CONVERSATIONS)
        assert len(list(tmp_path.rglob("shard-*.safetensors"))) == 1
    done = len(server.requests)
    with serving(there) as again:
        again.url, port = server.url, again.url
        _, made = cache(tmp_path, server)
        made._drafts._client = ServerClient(port, CLIENT, {})
        found = made.records(PROMPTS, CONVERSATIONS)
        assert len(again.requests) == 12, "the shard that was finished is not drawn again"
    assert done >= 15
    assert len(found) == len(PROMPTS)


def test_a_passing_failure_is_tried_again(tmp_path):
    there = Server()
    with serving(lambda path, request, n: there(path, request, n) if n % 2 else Answer({}, 429)) as server:
        one = CLIENT.model_copy(update={"in_flight": 1})
        assert len(cache(tmp_path, server, client=one)[1].records(PROMPTS, CONVERSATIONS)) == len(PROMPTS)
        assert len(server.requests) == 2 * len(PROMPTS)


def test_where_drafts_come_from_is_part_of_the_caches_key(tmp_path, monkeypatch):
    system = GuardedSystem(tiny_model(), KeywordGuard("zz"))
    url = "http://me:secret@127.0.0.1:9/v1"
    keys = {TeacherCache(tmp_path, system, SETTINGS).key}
    for name in ("m", "n"):
        drafts = ServerDrafts(DraftServerConfig(url=url, model=name))
        assert drafts.described == {"url": "http://127.0.0.1:9/v1", "model": name, "prompt": "ids", "body": {}}
        keys.add(TeacherCache(tmp_path, system, SETTINGS, drafts=drafts).key)
    assert len(keys) == 3
    assert "secret" not in "".join(p.read_text() for p in tmp_path.rglob("settings.json"))
    monkeypatch.setattr(caching, "sample", lambda *a, **k: pytest.fail("sampled here"))
    with pytest.raises((RuntimeProgramError, GuardError)):
        TeacherCache(tmp_path, system, SETTINGS, drafts=drafts).records(PROMPTS[:1], CONVERSATIONS[:1])


def test_a_server_by_name_and_by_file(tmp_path):
    short = load_draft_server("org/model@http://host:8000/v1")
    assert (short.model, short.url, short.client.timeout_s) == ("org/model", "http://host:8000/v1", 120)
    path = tmp_path / "server.toml"
    path.write_text('url = "http://h/v1"\nmodel = "m"\nbody = { top_k = 0 }\n[client]\nin_flight = 64\n')
    long = load_draft_server(str(path))
    assert (long.client.in_flight, long.body) == (64, {"top_k": 0})
    path.write_text('url = "http://h/v1"\nmodel = "m"\nmodell = "x"\n')
    for wrong in ("org/model", "@http://host/v1", "org/model@host:8000", str(path), str(tmp_path / "absent.toml")):
        with pytest.raises(ConfigError, match="server"):
            load_draft_server(wrong)
