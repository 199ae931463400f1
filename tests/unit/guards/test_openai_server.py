"""A guard behind a fake server: verdicts from log-probabilities, and what becomes of every way to fail."""

import math
import socket
from datetime import UTC, datetime
from typing import Any

import pytest

from softguard.core import Conversation
from softguard.errors import ConfigError
from softguard.guards.family import FAMILIES
from softguard.guards.openai_server import OpenAIServerConfig, ServerGuard, on_answers
from softguard.guards.registry import load_guard, make_guard
from softguard.runtimes.server_client import ClientConfig, ServerClient, retry_after_s
from tests.unit.guards.fake_server import Answer, FakeServer, chat, completion, serving

PAIR = Conversation.from_prompt("Name a river.").with_response("The Rhine.")
QUICK = ClientConfig(timeout_s=5, attempts=3, first_delay_s=0.25, max_delay_s=8, in_flight=4)
SAFE = completion(safe=0.9, unsafe=0.06, x=0.04)


def guard(server: FakeServer, family: str = "llama-guard-3", client: ClientConfig = QUICK, **settings: Any):
    """Return a guard and the list of the waits that it would have made."""
    config = OpenAIServerConfig(url=server.url, family=family, model="m", client=client, **settings)
    waits: list[float] = []
    return ServerGuard(config, FAMILIES.get(family), ServerClient(server.url, client, {}, sleep=waits.append)), waits


def test_p_safe_is_of_the_verdict_tokens():
    with serving(lambda *_: SAFE) as server:
        (verdict,) = guard(server)[0].judge([PAIR])
        (path, request, _) = server.requests[0]
    assert verdict.p_safe == pytest.approx(0.9 / 0.96, abs=1e-5)
    assert path == "/v1/completions"
    assert request["prompt"] == FAMILIES.get("llama-guard-3").render(PAIR)[""] + "\n\n"
    assert (request["max_tokens"], request["temperature"], request["logprobs"]) == (1, 0, 20)
    assert request["add_special_tokens"] is False


def test_a_server_that_adds_the_opening_token_is_not_sent_it():
    with serving(lambda *_: SAFE) as server:
        guard(server, server_adds_bos=True)[0].judge([PAIR])
        assert server.requests[0][1]["prompt"].startswith("<|start_header_id|>user")


def test_every_principle_is_a_request_and_the_worst_decides():
    def reply(_path: str, request: dict[str, Any], _number: int) -> Answer:
        return completion(Yes=0.7, No=0.3) if "No Harassment" in request["prompt"] else completion(Yes=0.1, No=0.9)

    with serving(reply) as server:
        (verdict,) = guard(server, "shieldgemma")[0].judge([PAIR])
        assert len(server.requests) == 4
    assert verdict.p_safe == pytest.approx(0.3)
    assert verdict.categories["harassment"] == pytest.approx(0.7)


def test_questions_in_a_row_are_asked_along_every_likely_path():
    def reply(_path: str, request: dict[str, Any], _number: int) -> Answer:
        asked = request["prompt"].rpartition("<|assistant|>\n")[2]
        if asked.endswith("request:"):
            return completion(**{" yes": 0.75, " no": 0.25})
        if asked.endswith("refusal:"):
            return completion(**{" no": 0.9995, " yes": 0.0005})  # the second is below the pruning
        return completion(**{" yes": 0.8, " no": 0.2}) if "request: yes" in asked else completion(**{" yes": 0.4, " no": 0.6})

    with serving(reply) as server:
        (verdict,) = guard(server, "wildguard")[0].judge([PAIR])
        assert len(server.requests) == 1 + 2 + 2
    assert verdict.p_safe == pytest.approx(1 - (0.75 * 0.8 + 0.25 * 0.4), abs=1e-3)


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("llama-guard-3", [("\n\n", {"\n\n": 1.0}), ("safe", {"safe": 0.8, "unsafe": 0.2}), ("<|eot_id|>", {})]),
        (
            "qwen3guard",
            [
                *((t, {t: 1.0}) for t in ("Safety", ":")),
                (" Safe", {" Safe": 0.8, " Uns": 0.1, " Cont": 0.1}),
                ("\n", {"\n": 1.0}),
            ],
        ),
        (
            "granite-guardian-3.3",
            [(t, {t: 1.0}) for t in ("<think>", "\n", "</think>", "\n", "<score>")] + [(" no", {" no": 0.8, " yes": 0.2})],
        ),
        ("llama-guard-4", [("safe", {"safe": 0.8, "unsafe": 0.2})]),
    ],
)
def test_a_chat_is_read_where_the_verdict_stands(family, said):
    with serving(lambda *_: chat(*said)) as server:
        (verdict,) = guard(server, family, mode="chat")[0].judge([PAIR])
        path, request, _ = server.requests[0]
    assert verdict.p_safe == pytest.approx(0.8)
    assert path == "/v1/chat/completions"
    assert request["messages"] == FAMILIES.get(family).messages(PAIR)
    assert ("chat_template_kwargs" in request) == family.startswith("granite")


def test_a_chat_that_never_comes_to_a_verdict_is_ungraded():
    with serving(lambda *_: chat(("I", {"I": 1.0}), (" think", {" think": 1.0}))) as server:
        (verdict,) = guard(server, "qwen3guard", mode="chat")[0].judge([PAIR])
        assert "lead up to a verdict" in (verdict.ungraded or "")
        (verdict,) = guard(server, "llama-guard-3", mode="chat")[0].judge([PAIR])
        assert "of the probability" in (verdict.ungraded or "")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"<html>busy</html>", "no JSON object"),
        (["safe"], "no JSON object"),
        ({"choices": [{"text": "safe"}]}, "without log-probabilities"),
        ({"choices": [{"text": "safe", "logprobs": None}]}, "without log-probabilities"),
        ({"choices": []}, "without log-probabilities"),
        ({"error": {"message": "Name a river."}}, "without log-probabilities"),
        (
            {"choices": [{"logprobs": {"tokens": ["safe"], "top_logprobs": [{"safe": float("nan")}]}}]},
            "without log-probabilities",
        ),
        ({"choices": [{"logprobs": {"tokens": ["safe"], "top_logprobs": [{"safe": 0.7}]}}]}, "without log-probabilities"),
        ({"choices": [{"logprobs": {"tokens": ["x"], "top_logprobs": [{"x": -0.01}]}}]}, "of the probability"),
    ],
)
def test_garbage_is_ungraded_with_a_reason_that_repeats_no_text(body, why):
    with serving(lambda *_: Answer(body)) as server:
        (verdict,) = guard(server)[0].judge([PAIR])
    assert verdict.p_safe is None
    assert why in (verdict.ungraded or "")
    assert "river" not in (verdict.ungraded or "")


def test_passing_failures_are_retried_with_growing_jittered_waits():
    def reply(_path: str, _request: dict[str, Any], number: int) -> Answer:
        return SAFE if number == 2 else Answer({}, status=503)

    with serving(reply) as server:
        asked, waits = guard(server)
        assert asked.judge([PAIR])[0].p_safe is not None
        again, same_waits = guard(server)
        server.requests.clear()
        again.judge([PAIR])
    assert 0.125 <= waits[0] <= 0.25
    assert 0.25 <= waits[1] <= 0.5
    assert waits == same_waits  # the jitter is of a seed


def test_retry_after_is_honoured_and_a_longer_one_than_allowed_gives_up():
    with serving(lambda _p, _r, n: SAFE if n == 1 else Answer({}, 429, {"retry-after": "3"})) as server:
        asked, waits = guard(server)
        assert asked.judge([PAIR])[0].p_safe is not None
        assert waits == [3.0]
    with serving(lambda *_: Answer({}, 429, {"retry-after": "3600"})) as server:
        asked, waits = guard(server)
        assert "status 429, to be asked again in 3600 s" in (asked.judge([PAIR])[0].ungraded or "")
        assert (len(server.requests), waits) == (1, [])


def test_retry_after_in_both_forms():
    now = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
    assert retry_after_s("7") == 7.0
    assert retry_after_s("Thu, 01 Jan 2026 12:01:00 GMT", now) == 60.0
    assert retry_after_s("Thu, 01 Jan 2026 11:00:00 GMT", now) == 0.0
    assert retry_after_s("soon") is None
    assert retry_after_s(None) is None


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refused_request_is_not_retried_and_the_server_not_given_up(status):
    with serving(lambda *_: Answer({}, status=status)) as server:
        asked, waits = guard(server)
        verdicts = asked.judge([PAIR] * 8)
        assert len(server.requests) == 8
    assert waits == []
    assert all(f"status {status}" in (v.ungraded or "") for v in verdicts)


def test_a_slow_server_is_not_waited_for():
    client = QUICK.model_copy(update={"timeout_s": 0.2, "attempts": 2})
    with serving(lambda _p, _r, n: Answer(SAFE.body, delay_s=0.6 if n == 0 else 0.0)) as server:
        assert guard(server, client=client)[0].judge([PAIR])[0].p_safe is not None
    with serving(lambda *_: Answer(SAFE.body, delay_s=0.6)) as server:
        (verdict,) = guard(server, client=client)[0].judge([PAIR])
        assert "no reply within 0.2 s, 2 attempts" in (verdict.ungraded or "")


def test_a_dead_server_leaves_all_ungraded_and_is_soon_left_alone():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        server = FakeServer(f"http://127.0.0.1:{taken.getsockname()[1]}/v1")  # bound, nobody listens
        client = QUICK.model_copy(update={"attempts": 2, "give_up_after": 3, "in_flight": 1})
        asked, waits = guard(server, client=client)
        verdicts = asked.judge([PAIR] * 10)
        assert len(waits) == 3  # one wait for each of the three that were tried
        assert all(v.p_safe is None and (v.ungraded or "").startswith("127.0.0.1: ") for v in verdicts)
        assert "unreachable" in (verdicts[0].ungraded or "")
        assert "not sent" in (verdicts[9].ungraded or "")
        asked.judge([PAIR])
        assert len(waits) == 4  # the next call tries again


def test_no_more_requests_in_flight_than_allowed():
    client = QUICK.model_copy(update={"in_flight": 3})
    with serving(lambda *_: Answer(SAFE.body, delay_s=0.05)) as server:
        verdicts = guard(server, client=client)[0].judge([PAIR] * 12)
        assert all(v.p_safe is not None for v in verdicts)
        assert 2 <= server.most_in_flight <= 3


def test_the_rate_limit_spaces_requests():
    waits: list[float] = []
    client = QUICK.model_copy(update={"requests_per_second": 4.0, "in_flight": 1})
    with serving(lambda *_: SAFE) as server:
        asked = ServerClient(server.url, client, {}, sleep=waits.append, clock=lambda: 100.0)
        for i in range(4):
            asked.post("/completions", {}, str(i))
    assert waits == pytest.approx([0.25, 0.5, 0.75])


def test_order_is_kept_and_what_cannot_be_judged_is_not_sent():
    def reply(_path: str, request: dict[str, Any], _number: int) -> Answer:
        return completion(safe=0.9, unsafe=0.1) if "river" in request["prompt"] else completion(safe=0.2, unsafe=0.8)

    pairs = [PAIR, Conversation.from_prompt(" ").with_response("Hi"), Conversation.from_prompt("Why?").with_response("No.")]
    with serving(reply) as server:
        verdicts = guard(server)[0].judge(pairs * 3)
        assert len(server.requests) == 6
    assert [v.p_safe for v in verdicts] == pytest.approx([0.9, None, 0.2] * 3)


def test_a_long_response_is_cut_and_says_so():
    with serving(lambda *_: SAFE) as server:
        asked, _ = guard(server, max_response_characters=10)
        (verdict,) = asked.judge([PAIR.with_response("The Rhine. And more.")])
        assert verdict.truncated
        assert "And more" not in server.requests[0][1]["prompt"]


def test_text_that_no_utf8_can_hold_is_sent_all_the_same():
    with serving(lambda *_: SAFE) as server:
        assert guard(server)[0].judge([PAIR.with_response("half a pair: \ud800")])[0].p_safe is not None


def test_a_reason_holds_no_password():
    settings = {"kind": "openai_server", "url": "http://me:secret@127.0.0.1:9/v1", "family": "llama-guard-3", "model": "m"}
    (verdict,) = make_guard({**settings, "client": {"attempts": 1}}).judge([PAIR])
    assert verdict.ungraded == "127.0.0.1: unreachable (ConnectError), 1 attempts"


@pytest.mark.parametrize("url", ["http://[x/v1", "http://host:port/v1"])
def test_an_address_that_is_none(url):
    with pytest.raises(ConfigError, match="address of a server"):
        make_guard({"kind": "openai_server", "url": url, "family": "llama-guard-3", "model": "m"})


def test_marks_of_the_format_are_defused():
    with serving(lambda *_: SAFE) as server:
        guard(server)[0].judge([PAIR.with_response("<|eot_id|>")])
        assert server.requests[0][1]["prompt"].count("<|eot_id|>") == 1


def test_tokens_are_matched_to_the_one_answer_that_they_begin():
    found = on_answers({"un": -1.0, "unsafe": -2.0, " safe": -3.0, "": 0.0, "sa": -4.0, "x": -1.0}, ("safe", "unsafe"))
    assert found["unsafe"] == pytest.approx(math.log(math.exp(-1) + math.exp(-2)))
    assert found["safe"] == pytest.approx(math.log(math.exp(-3) + math.exp(-4)))
    assert on_answers({"no": -1.0}, ("now", "nor")) == {"now": -math.inf, "nor": -math.inf}


def test_the_key_comes_from_the_environment_and_stays_out_of_the_fingerprint(monkeypatch):
    settings = {"kind": "openai_server", "url": "http://127.0.0.1:1/v1", "family": "llama-guard-3", "model": "m"}
    with pytest.raises(ConfigError, match="GUARD_KEY"):
        make_guard({**settings, "api_key_env": "GUARD_KEY"})
    monkeypatch.setenv("GUARD_KEY", "secret")
    assert make_guard({**settings, "api_key_env": "GUARD_KEY"}).fingerprint == make_guard(settings).fingerprint
    assert make_guard({**settings, "model": "other"}).fingerprint != make_guard(settings).fingerprint


def test_the_key_is_sent(monkeypatch):
    monkeypatch.setenv("GUARD_KEY", "secret")
    with serving(lambda *_: SAFE) as server:
        settings = {
            "kind": "openai_server",
            "url": server.url,
            "family": "llama-guard-3",
            "model": "m",
            "api_key_env": "GUARD_KEY",
        }
        assert make_guard(settings).judge([PAIR])[0].p_safe is not None
        assert {k.lower(): v for k, v in server.requests[0][2].items()}["authorization"] == "Bearer secret"


def test_a_name_at_an_address():
    with serving(lambda *_: SAFE) as server:
        named = load_guard(f"llama-guard-3-8b@{server.url}")
        assert named.judge([PAIR])[0].p_safe is not None
        assert server.requests[0][1]["model"] == "meta-llama/Llama-Guard-3-8B"
        assert named.name == "llama-guard-3-8b"


@pytest.mark.parametrize(
    ("family", "mode", "instead"), [("granite-guardian-3.3", "completions", "chat"), ("wildguard", "chat", "completions")]
)
def test_a_mode_that_a_family_does_not_have(family, mode, instead):
    with pytest.raises(ConfigError, match=f'mode = "{instead}"'):
        make_guard({"kind": "openai_server", "url": "http://x/v1", "family": family, "model": "m", "mode": mode})
