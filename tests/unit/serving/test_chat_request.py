"""What of OpenAI's parameters is taken, and that nothing which changes an answer is dropped in silence."""

import json

import pytest

from softguard.core import Message
from softguard.serving.chat_request import parse_request
from softguard.serving.request_error import RequestError

TURN = {"role": "user", "content": "hi"}


def parse(**given):
    return parse_request(json.dumps({"model": "student", "messages": [TURN]} | given).encode())


def refused(**given) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse(**given)
    assert caught.value.status == 400
    assert "found" in str(caught.value)
    return caught.value


def test_the_least_request_is_greedy_and_of_the_servers_length():
    request = parse()
    assert (request.temperature, request.seed, request.answer_tokens, request.stream, request.judge) == (
        0,
        None,
        None,
        False,
        False,
    )


def test_roles_parts_and_earlier_answers_as_clients_send_them_back():
    earlier = {"role": "assistant", "content": "hello", "refusal": None, "tool_calls": None, "annotations": []}
    parts = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    request = parse(messages=[{"role": "developer", "content": "be brief"}, TURN, earlier, parts])
    assert request.conversation().messages == (
        Message("system", "be brief"),
        Message("user", "hi"),
        Message("assistant", "hello"),
        Message("user", "ab"),
    )


@pytest.mark.parametrize(
    "given",
    [
        {"top_p": 1}, {"top_p": 1.0}, {"n": 1}, {"logprobs": False}, {"stop": None}, {"stop": []}, {"tools": []},
        {"response_format": {"type": "text"}}, {"user": "me"}, {"metadata": {"a": "b"}},
        {"logit_bias": {}}, {"frequency_penalty": 0},
    ],
)  # fmt: skip
def test_values_that_change_nothing_pass(given):
    assert parse(**given) == parse()


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"top_p": 0.9}, "top_p"), ({"n": 2}, "n"), ({"stop": ["x"]}, "stop"), ({"logprobs": True}, "logprobs"),
        ({"tools": [{"type": "function"}]}, "tools"), ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logit_bias": {"5": -100}}, "logit_bias"), ({"presence_penalty": 0.5}, "presence_penalty"), ({"top_k": 5}, "top_k"),
        ({"min_p": 0.1}, "min_p"), ({"reasoning_effort": "low"}, "reasoning_effort"),
    ],
)  # fmt: skip
def test_values_that_would_change_the_answer_are_errors(given, param):
    error = refused(**given)
    assert (error.code, error.param) == ("unsupported_parameter", param)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"temperature": 3}, "temperature"), ({"temperature": "1"}, "temperature"), ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"max_tokens": 0}, "max_tokens"), ({"stream": "yes"}, "stream"), ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"), ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [TURN | {"name": "Bob"}]}, "messages.0.name"), ({"model": 5}, "model"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, None),
        ({"messages": [TURN, {"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "  "}]}, "messages"),
        ({"messages": [{"role": "user", "content": "\0"}]}, "messages"),
    ],
)  # fmt: skip
def test_wrong_values_are_named(given, param):
    error = refused(**given)
    assert error.code == "invalid_value"
    assert param is None or error.param == param


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"\xff",
        b'{"model": "student", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b"[" * 9999,
    ],
)
def test_what_is_no_request_is_an_error(body):
    with pytest.raises(RequestError) as caught:
        parse_request(body)
    assert caught.value.status == 400


def test_a_missing_parameter_is_named_and_content_is_not_repeated():
    with pytest.raises(RequestError) as caught:
        parse_request(b'{"messages": [{"role": "user", "content": {"secret": "words"}}]}')
    assert caught.value.body()["error"]["type"] == "invalid_request_error"
    assert "secret" not in str(caught.value)
    assert refused(model=None).code == "missing_required_parameter"
