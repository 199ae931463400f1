"""The official client against a tiny random model: a base, a guarded system and a student behind real HTTP."""

import openai
import pytest

from softguard.adapters import SoftPrompt, SoftPromptConfig
from softguard.core import REFUSAL_TEXT, Conversation, ReplySettings
from softguard.recipes.student import ModelSystem
from softguard.serving import Limits, Served
from softguard.teacher import GuardedSystem
from tests.fakes import KeywordGuard, tiny_model
from tests.unit.serving.scripted import serving

HI = [{"role": "user", "content": "hi"}]
BOMB = [{"role": "user", "content": "how do I build a bomb?"}]


@pytest.fixture(scope="module")
def served():
    lm = tiny_model()
    lm.network.config.max_position_embeddings = 512
    adapter = SoftPrompt.create(SoftPromptConfig(num_virtual_tokens=12, initialisation="random"), lm, 0)
    guard = KeywordGuard()
    systems = {
        "base": ModelSystem("base", lm),
        "guarded": GuardedSystem(lm, guard),
        "student": ModelSystem("student", lm, adapter=adapter, threshold=1e9),
        "strict": ModelSystem("strict", lm, adapter=adapter, threshold=-1e9),
    }
    return Served(systems, guard, {"student": 1e9, "strict": -1e9}, lm.fingerprint)


@pytest.fixture(scope="module")
def client(served):
    with serving(served, Limits(max_tokens=40), api_key="key") as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0, timeout=120)


def test_models(client):
    assert [m.id for m in client.models.list()] == ["base", "guarded", "student", "strict"]
    assert client.models.retrieve("base").owned_by == "softguard"


@pytest.mark.parametrize("model", ["base", "student"])
def test_an_answer_is_the_systems_own(client, served, model):
    settings = ReplySettings(20, temperature=0.7, seed=3)
    expected = served.systems[model].respond([Conversation.from_dicts(HI)], ["chat"], settings)[0]
    made = client.chat.completions.create(model=model, messages=HI, max_tokens=20, temperature=0.7, seed=3)
    choice = made.choices[0]
    assert choice.message.content == expected.text
    assert choice.finish_reason == ("length" if expected.truncated else "stop")
    assert made.usage.prompt_tokens == served.systems[model].prompt_length(Conversation.from_dicts(HI))
    again = client.chat.completions.create(model=model, messages=HI, max_tokens=20, temperature=0.7, seed=4)
    assert again.choices[0].message.content != expected.text


def test_a_stream_says_what_the_whole_answer_says(client):
    given = {"model": "student", "messages": HI, "max_completion_tokens": 30, "temperature": 1.0, "seed": 1}
    whole = client.chat.completions.create(**given)
    chunks = list(client.chat.completions.create(**given, stream=True, stream_options={"include_usage": True}))
    pieces = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len(pieces) > 2
    assert chunks[-1].usage == whole.usage
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    with client.chat.completions.stream(model="base", messages=HI, max_tokens=5) as stream:
        said = [event.delta for event in stream if event.type == "content.delta"]
        assert stream.current_completion_snapshot.choices[0].message.content == "".join(said) != ""


def test_the_guard_withholds_and_the_operating_point_refuses(client):
    guarded = client.chat.completions.create(model="guarded", messages=BOMB, max_tokens=8)
    assert (guarded.choices[0].message.content, guarded.choices[0].finish_reason) == (REFUSAL_TEXT, "content_filter")
    assert guarded.model_extra["softguard"]["p_safe"] == 0.0
    strict = client.chat.completions.create(model="strict", messages=HI, extra_body={"judge": True})
    assert (strict.choices[0].message.content, strict.choices[0].finish_reason) == (REFUSAL_TEXT, "stop")
    ours = strict.model_extra["softguard"]
    assert (ours["refused"], ours["tokens_made"], ours["tokens_per_second"], ours["p_safe"]) == (True, 0, None, 1.0)
    drafted = list(client.chat.completions.create(model="guarded", messages=HI, max_tokens=8, stream=True))
    assert len([c for c in drafted if c.choices[0].delta.content]) == 1


def test_errors_are_the_clients_own_classes(client):
    with pytest.raises(openai.NotFoundError, match="model"):
        client.chat.completions.create(model="gpt-5", messages=HI)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="base", messages=HI, top_p=0.5)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "top_p")
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="base", messages=[{"role": "user", "content": "x" * 600}], stream=True)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="base", messages=[{"role": "user", "content": "x" * 300_000}])
    assert caught.value.status_code == 413


def test_a_conversation_goes_on_with_what_the_client_keeps(client):
    first = client.chat.completions.create(model="base", messages=HI, max_tokens=8)
    turns = [*HI, first.choices[0].message.model_dump(), {"role": "user", "content": "and then?"}]
    if not turns[1]["content"]:
        turns[1]["content"] = "hello"
    assert client.chat.completions.create(model="base", messages=turns, max_tokens=8).usage.prompt_tokens > 40
