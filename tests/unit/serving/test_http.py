"""The interface over real HTTP, with scripted systems: forms, errors, limits, who is let in, clients that leave."""

import json
import math
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import httpx
import pytest

from softguard.core import Message, Reply, Verdict
from softguard.errors import DataError
from softguard.serving import Limits, Served
from tests.unit.serving.scripted import FixedGuard, Scripted, serving, wait_for

CHAT = "/v1/chat/completions"


def body(**given):
    return {"model": "student", "messages": [{"role": "user", "content": "say three words"}]} | given


def only(system: Scripted, **given) -> Served:
    return Served({system.name: system}, thresholds={"student": 0.25}, fingerprint="abcdef0123456789", created=7, **given)


def events(response: httpx.Response) -> list:
    blocks = response.text.split("\n\n")
    assert blocks.pop() == ""
    return [b if b == "data: [DONE]" else json.loads(b.removeprefix("data: ")) for b in blocks]


def test_a_whole_answer():
    system = Scripted()
    with serving(only(system)) as url:
        response = httpx.post(url + CHAT, json=body(seed=4, max_tokens=9, temperature=0.5))
    assert response.status_code == 200
    made = response.json()
    assert made["object"] == "chat.completion"
    assert (made["model"], made["system_fingerprint"]) == ("student", "fp_abcdef012345")
    choice = made["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("One two three", "stop")
    assert made["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    ours = made["softguard"]
    assert (ours["refusal_log_odds"], ours["threshold"], ours["refused"], ours["p_safe"], ours["seed"]) == (
        -1.5,
        0.25,
        False,
        None,
        4,
    )
    assert 0 < ours["first_token_ms"] <= ours["answer_ms"]
    conversation, settings = system.asked[0]
    assert conversation.messages == (Message("user", "say three words"),)
    assert (settings.max_new_tokens, settings.temperature, settings.seed) == (9, 0.5, 4)


def test_a_streamed_answer_says_the_same():
    with serving(only(Scripted())) as url:
        response = httpx.post(url + CHAT, json=body(stream=True, stream_options={"include_usage": True}))
        plain = events(httpx.post(url + CHAT, json=body(stream=True)))
    assert response.headers["content-type"].startswith("text/event-stream")
    first, *pieces, closing, counted, end = events(response)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [p["choices"][0]["delta"]["content"] for p in pieces] == ["One ", "two ", "three"]
    assert {p["choices"][0]["finish_reason"] for p in (first, *pieces)} == {None}
    assert (closing["choices"][0]["finish_reason"], closing["choices"][0]["delta"]) == ("stop", {})
    assert closing["softguard"]["tokens_made"] == 3
    assert (counted["choices"], counted["usage"]["total_tokens"]) == ([], 6)
    assert end == "data: [DONE]"
    assert len({p["id"] for p in (first, *pieces, closing, counted)}) == 1
    assert not any("usage" in p for p in plain[:-1])


@pytest.mark.parametrize(
    ("reply", "reason", "refused"),
    [
        (Reply("One two three", 0.0, truncated=True), "length", False),
        (Reply("One two three", math.inf, refused=True), "stop", True),
        (Reply("One two three", 2.0, p_safe=0.1, replaced=True, draft="harm"), "content_filter", True),
        (Reply("One two three", -2.0, p_safe=0.9, replaced=False, draft="One two three"), "stop", False),
        (Reply("One two three", math.nan, replaced=True, ungraded="http://guard:8000 is gone"), "content_filter", True),
    ],
)
def test_why_an_answer_ended(reply, reason, refused):
    with serving(only(Scripted(reply=reply), guard=FixedGuard(Verdict(p_safe=0.3)))) as url:
        response = httpx.post(url + CHAT, json=body(judge=True))
    made = response.json()
    assert made["choices"][0]["finish_reason"] == reason
    ours = made["softguard"]
    assert ours["refused"] == refused
    assert ours["ungraded"] == (reply.ungraded is not None)
    assert ours["p_safe"] == (0.3 if reply.replaced is None else reply.p_safe)  # a guarded answer is not judged again
    assert ours["refusal_log_odds"] == {math.inf: 1e9}.get(
        reply.refusal_log_odds, None if reply.ungraded else reply.refusal_log_odds
    )
    assert "guard:8000" not in response.text


def test_a_verdict_that_could_not_be_had_is_no_score():
    with serving(only(Scripted(), guard=FixedGuard(Verdict(ungraded="no reply")))) as url:
        ours = httpx.post(url + CHAT, json=body(judge=True)).json()["softguard"]
    assert (ours["p_safe"], ours["ungraded"]) == (None, True)


def test_models():
    systems = {name: Scripted(name) for name in ("base", "student")}
    with serving(Served(systems, created=7)) as url:
        listed = httpx.get(url + "/v1/models").json()
        assert listed["object"] == "list"
        assert [m["id"] for m in listed["data"]] == ["base", "student"]
        assert httpx.get(url + "/v1/models/base").json() == listed["data"][0]
        assert httpx.get(url + "/v1/models/gpt").json()["error"]["code"] == "model_not_found"
        assert httpx.get(url + "/health").json() == {"status": "ok", "open_requests": 0}


@pytest.mark.parametrize(
    ("given", "status", "code", "param"),
    [
        (body(model="gpt-4"), 404, "model_not_found", "model"),
        (body(max_tokens=65), 400, "invalid_value", "max_tokens"),
        (body(max_completion_tokens=65), 400, "invalid_value", "max_completion_tokens"),
        (body(judge=True), 400, "no_guard", "judge"),
        (body(top_p=0.5), 400, "unsupported_parameter", "top_p"),
        (body(messages=[{"role": "user", "content": "word " * 90}], max_tokens=11), 400, "context_length_exceeded", "messages"),
        (body(messages=[{"role": "user", "content": "word " * 100}], stream=True), 400, "context_length_exceeded", "messages"),
        (body(messages=[{"role": "user", "content": "x" * 5000}]), 413, "body_too_large", None),
    ],
)
def test_errors_have_openais_form(given, status, code, param):
    with serving(only(Scripted()), Limits(max_tokens=64, max_body=4096)) as url:
        response = httpx.post(url + CHAT, json=given)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)
    assert set(error) == {"message", "type", "param", "code"}


def test_other_paths_methods_and_types():
    with serving(only(Scripted())) as url:
        assert httpx.get(url + "/docs").json()["error"]["code"] == "not_found"
        assert httpx.get(url + CHAT).status_code == 405
        assert httpx.get(url + "/v1/files/../../etc/passwd").status_code == 404
        text = httpx.post(url + CHAT, content=json.dumps(body()), headers={"content-type": "text/plain"})
        assert (text.status_code, text.json()["error"]["code"]) == (415, "unsupported_media_type")
        assert (
            httpx.post(url + CHAT, content=b"{", headers={"content-type": "application/json"}).json()["error"]["code"]
            == "invalid_json"
        )


def test_a_prompt_that_just_fits_gets_what_room_there_is():
    system = Scripted(context=100)
    with serving(only(system), Limits(max_tokens=64)) as url:
        assert httpx.post(url + CHAT, json=body(messages=[{"role": "user", "content": "word " * 99}])).status_code == 200
    assert system.asked[0][1].max_new_tokens == 1


def test_a_body_without_a_length_is_cut_off_too_and_a_slow_one_ends():
    def chunks():
        for _ in range(100):
            yield b" " * 1000

    with serving(only(Scripted()), Limits(max_body=4096, body_seconds=0.3)) as url:
        headers = {"content-type": "application/json"}
        assert httpx.post(url + CHAT, content=chunks(), headers=headers).status_code == 413
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(
                f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{{".encode()
            )
            slow.settimeout(60)
            assert slow.recv(4096).startswith(b"HTTP/1.1 408")


def test_faults_of_ours_tell_clients_nothing_and_logs_no_prompt(caplog):
    fault = OSError("/home/secret/model.gguf: say three words")
    with serving(only(Scripted(fault=fault))) as url:
        whole = httpx.post(url + CHAT, json=body())
        streamed = events(httpx.post(url + CHAT, json=body(stream=True)))
        assert httpx.get(url + "/health").json()["open_requests"] == 0
    assert (whole.status_code, whole.json()["error"]["type"]) == (500, "server_error")
    assert streamed[-1]["error"]["code"] == "internal_error"
    assert "data: [DONE]" not in streamed
    for text in (whole.text, json.dumps(streamed)):
        assert "secret" not in text
        assert "Traceback" not in text
    assert "OSError" in caplog.text
    assert "say three words" not in caplog.text


def test_turns_that_the_template_does_not_take(monkeypatch):
    def refuse(self, conversation):
        raise DataError("turns that the template takes", "/etc/passwd", "change them")

    monkeypatch.setattr(Scripted, "prompt_length", refuse)
    with serving(only(Scripted())) as url:
        response = httpx.post(url + CHAT, json=body(stream=True))
    assert (response.status_code, response.json()["error"]["param"]) == (400, "messages")
    assert "passwd" not in response.text


def test_the_key_is_asked_for_below_v1_alone():
    with serving(only(Scripted()), api_key="correct horse") as url:
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "Basic correct horse"},
            {"authorization": "correct horse"},
        ):
            refused = httpx.get(url + "/v1/models", headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
            assert httpx.post(url + CHAT, json=body(), headers=headers).status_code == 401
        assert httpx.get(url + "/v1/models", headers={"authorization": "Bearer correct horse"}).status_code == 200
        assert httpx.get(url + "/health").status_code == 200
        assert 'type="password"' in httpx.get(url + "/").text


def test_a_local_server_answers_to_local_names_alone():
    with serving(only(Scripted()), hosts={"127.0.0.1", "localhost", "::1"}) as url:
        assert httpx.get(url + "/health", headers={"host": "localhost:1234"}).status_code == 200
        assert httpx.get(url + "/health", headers={"host": "[::1]:80"}).status_code == 200
        rebound = httpx.get(url + "/health", headers={"host": "evil.example"})
        assert (rebound.status_code, rebound.json()["error"]["code"]) == (403, "unknown_host")
        assert rebound.headers["x-content-type-options"] == "nosniff"


def test_one_request_too_many_is_told_to_come_back():
    gate = threading.Semaphore(0)
    system = Scripted(gate=gate)
    with serving(only(system), Limits(concurrency=2, queue=1)) as url, ThreadPoolExecutor(3) as pool:
        taken = [pool.submit(httpx.post, url + CHAT, json=body(), timeout=60) for _ in range(3)]
        wait_for(lambda: httpx.get(url + "/health").json()["open_requests"] == 3)
        refused = httpx.post(url + CHAT, json=body())
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "server_busy")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert refused.headers["retry-after"] == "2"
        gate.release(9)
        assert [one.result().status_code for one in taken] == [200] * 3
        gate.release(3)
        assert httpx.post(url + CHAT, json=body(), timeout=60).status_code == 200


def test_answers_take_turns():
    order: list[str] = []
    hold = threading.Event()

    class Noting:
        """A gate that notes who passes."""

        def __init__(self, name):
            self._name = name

        def acquire(self):
            hold.wait(60)
            order.append(self._name)

    systems = {name: Scripted(name, ["word "] * 9, gate=Noting(name)) for name in ("base", "student")}
    with serving(Served(systems)) as url, ThreadPoolExecutor(2) as pool:
        taken = [pool.submit(httpx.post, url + CHAT, json=body(model=name), timeout=60) for name in systems]
        wait_for(lambda: httpx.get(url + "/health").json()["open_requests"] == 2)
        hold.set()
        assert [one.result().status_code for one in taken] == [200, 200]
    late = next(i for i, name in enumerate(order) if name != order[0])
    assert late <= 3  # one pass was under way when the other came, which was then read first
    both = order[late - 1 : 10]
    assert all(a != b for a, b in pairwise(both))
    assert order.count("base") == order.count("student") == 9


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_the_work(stream):
    gate = threading.Semaphore(0)
    system = Scripted(words=["word "] * 1000, gate=gate)
    with serving(only(system)) as url:
        host, port = url.removeprefix("http://").split(":")
        data = json.dumps(body(stream=stream)).encode()
        with socket.create_connection((host, int(port))) as client:
            head = (
                f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
            )
            client.sendall(head.encode() + data)
            gate.release(3)
            wait_for(lambda: system.passes == 3)
        for _ in range(50):  # the server learns of it while the work goes on
            gate.release()
            if system.left:
                break
            threading.Event().wait(0.1)
        assert system.left == 1
        assert system.passes < 60
        wait_for(lambda: httpx.get(url + "/health").json()["open_requests"] == 0)


def test_the_loop_answers_while_a_pass_runs_and_the_end_tells_those_who_wait():
    gate = threading.Semaphore(0)
    system = Scripted(gate=gate)
    with ThreadPoolExecutor(3) as pool:
        with serving(only(system), Limits(concurrency=1)) as url:
            whole = pool.submit(httpx.post, url + CHAT, json=body(), timeout=60)
            wait_for(lambda: len(system.asked) == 1)
            streamed = pool.submit(httpx.post, url + CHAT, json=body(stream=True), timeout=60)
            wait_for(lambda: httpx.get(url + "/health").json()["open_requests"] == 2)
            gate.release()
            pool.submit(lambda: (threading.Event().wait(0.5), gate.release()))  # the pass under way when the end is asked for
        assert whole.result().status_code == 503
        assert whole.result().json()["error"]["code"] == "server_closing"
        assert streamed.result().json()["error"]["code"] == "server_closing"
    assert system.passes < 3
