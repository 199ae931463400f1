"""`openai_server`: any family asked of an OpenAI-compatible server that gives log-probabilities (vLLM, llama-server, Ollama).

One idea: the same questions as in this process, answered over HTTP. With `completions` the server is sent our own rendered prompt
with the verdict's lead, and one token's likeliest alternatives are read. With `chat` it is sent the turns and renders them
itself, and the verdict is found in what it writes: where we have no template, or the server gives no log-probabilities for
completions (Ollama). Whatever fails leaves a pair ungraded, with the reason; never safe.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from softguard.core import Conversation, Message, Verdict
from softguard.errors import ConfigError
from softguard.guards.family import FAMILIES, MIN_MASS, Family, Reading, read_answers
from softguard.guards.judging import defused, why_ungraded
from softguard.guards.registry import GUARD_KINDS
from softguard.runtimes.server_client import ClientConfig, Failure, ServerClient, host_of, key_headers

PRUNE = 1e-3
"""Answers less likely than this are not followed further: each would be a request of its own."""

_CHAT_TOKENS = 24


class OpenAIServerConfig(BaseModel):
    """Settings of a guard on a server."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    url: str = Field(pattern=r"^https?://\S+$", description="of the API, with its /v1")
    family: str = Field(description="the format of the weights that the server runs")
    model: str = Field(description="the name by which the server knows them")
    mode: Literal["auto", "completions", "chat"] = Field(
        "auto", description="completions sends our rendered prompt, chat leaves that to the server; auto prefers completions"
    )
    top_logprobs: int = Field(20, gt=0, description="alternatives asked for; a verdict word below them counts as 0")
    server_adds_bos: bool = Field(False, description="leave the opening token out of the prompt, for servers that add it")
    max_response_characters: int = Field(8000, gt=0, description="an answer is read up to here; its verdict says so")
    min_mass: float = Field(MIN_MASS, ge=0, le=1, description="least probability that the words of a verdict need together")
    api_key_env: str = Field("", description="environment variable that holds the key; empty sends none")
    client: ClientConfig = Field(ClientConfig(), description="time-outs, retries, limits")
    name: str = Field("", description="in tables; empty takes the family's")


class ServerGuard:
    """A family behind a server."""

    remote = True
    """What computes is elsewhere: answers can be judged while others are drawn."""

    def __init__(self, config: OpenAIServerConfig, family: Family, client: ServerClient | None = None) -> None:
        """Check the settings; the server is not asked yet.

        Args:
            config: the settings.
            family: the format.
            client: who asks; None makes one of the settings.

        Raises:
            ConfigError: a mode that the family does not have, or a key that is not set.
        """
        self._mode = ("completions" if family.render else "chat") if config.mode == "auto" else config.mode
        if self._mode == "completions" and family.render is None:
            raise ConfigError('mode = "chat"', f"completions for {family.name}, whose format the weights bring", "set it")
        if self._mode == "chat" and not family.chats:
            raise ConfigError('mode = "completions"', f"chat for {family.name}, which asks more than one question", "set it")
        self._config, self._family, self._host = config, family, host_of(config.url)
        self.name = config.name or family.name
        self._client = client or ServerClient(config.url, config.client, key_headers(config.api_key_env))
        settings = config.model_dump(exclude={"client", "api_key_env", "name"})
        self.fingerprint = hashlib.sha256(repr(("openai-server-1", family.fingerprint, settings)).encode()).hexdigest()

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        """Return one verdict for each conversation, in order; ungraded, with the reason, where the server did not give one."""
        self._client.begin()
        with ThreadPoolExecutor(max_workers=self._config.client.in_flight) as pool:
            return list(pool.map(self._verdict, conversations))

    def _verdict(self, conversation: Conversation) -> Verdict:
        why = why_ungraded(conversation)
        if why is not None:
            return Verdict(ungraded=why)
        limit = self._config.max_response_characters
        truncated = len(conversation.response) > limit
        if truncated:
            cut = Message("assistant", conversation.response[:limit])
            conversation = replace(conversation, messages=(*conversation.messages[:-1], cut))
        safe = defused(conversation, self._family.marks)
        readings = self._completions(safe) if self._mode == "completions" else self._chat(safe)
        if isinstance(readings, Failure):
            return Verdict(ungraded=f"{self._host}: {readings.reason}", truncated=truncated)
        return self._family.verdict(readings, self._config.min_mass, truncated=truncated)

    def _completions(self, conversation: Conversation) -> Mapping[str, Reading] | Failure:
        assert self._family.render is not None
        readings: dict[str, Reading] = {}
        for key, text in self._family.render(conversation).items():
            prompt = text.removeprefix(self._family.bos) if self._config.server_adds_bos else text
            try:
                readings[key] = read_answers(self._family.questions, partial(self._ask, prompt), PRUNE)
            except _NoAnswer as error:
                return Failure(str(error))
        return readings

    def _ask(self, prompt: str, path: tuple[str, ...]) -> Mapping[str, float]:
        """Return the log-probability of each answer to the next question; -inf where it is not among the likeliest tokens."""
        questions = self._family.questions
        for question, answer in zip(questions, path, strict=False):
            prompt += question.lead + answer
        question = questions[len(path)]
        body = {
            **{"model": self._config.model, "prompt": prompt + question.lead, "max_tokens": 1, "temperature": 0},
            **{"logprobs": self._config.top_logprobs, "add_special_tokens": self._config.server_adds_bos},
        }
        reply = self._client.post("/completions", body, _key(prompt))
        if isinstance(reply, Failure):
            raise _NoAnswer(reply.reason)
        positions = _positions(reply)
        if not positions:
            raise _NoAnswer("a reply without log-probabilities")
        return on_answers(positions[0].likeliest, question.answers)

    def _chat(self, conversation: Conversation) -> Mapping[str, Reading] | Failure:
        (question,) = self._family.questions
        ((key, options),) = self._family.template.items()
        body: dict[str, Any] = {
            **{"model": self._config.model, "messages": self._family.messages(conversation), "max_tokens": _CHAT_TOKENS},
            **{"temperature": 0, "logprobs": True, "top_logprobs": self._config.top_logprobs},
        }
        if options:
            body["chat_template_kwargs"] = dict(options)
        reply = self._client.post("/chat/completions", body, _key(repr(body["messages"])))
        if isinstance(reply, Failure):
            return reply
        positions = _positions(reply)
        if not positions:
            return Failure("a reply without log-probabilities")
        written = ""
        for position in positions:
            if _leads_up(written, question.lead) and position.token.strip():
                said: dict[tuple[str, ...], Mapping[str, float]] = {(): on_answers(position.likeliest, question.answers)}
                return {key: read_answers(self._family.questions, said.__getitem__)}
            written += position.token
        return Failure(f"a reply without the words that lead up to a verdict of {self._family.name}")


class _NoAnswer(Exception):
    """Carries a failure out of `read_answers`."""


class _Position:
    """One written token with the log-probabilities of the likeliest in its place."""

    def __init__(self, token: str, likeliest: Mapping[str, float]) -> None:
        self.token, self.likeliest = token, likeliest


def on_answers(likeliest: Mapping[str, float], answers: Sequence[str]) -> Mapping[str, float]:
    """Return the log-probability of each answer: of all tokens, blanks aside, that begin it and no other answer."""
    mass = dict.fromkeys(answers, 0.0)
    for token, log_prob in likeliest.items():
        word = token.strip()
        meant = [a for a in answers if word and a.strip().startswith(word)]
        if len(meant) == 1:
            mass[meant[0]] += math.exp(log_prob)
    return {a: math.log(p) if p > 0 else -math.inf for a, p in mass.items()}


def _positions(reply: Mapping[str, Any]) -> list[_Position]:
    """Return the written tokens of a reply, in either form that servers use; none where it is of another shape.

    `{"content": [{"token", "logprob", "top_logprobs": [...]}]}` (chat, llama-server) or `{"tokens", "top_logprobs": [{}]}`.
    """
    try:
        found = reply["choices"][0]["logprobs"]
        if isinstance(found.get("content"), list):
            return [
                _Position(str(x["token"]), {str(t["token"]): _log(t["logprob"]) for t in (*x["top_logprobs"], x)})
                for x in found["content"]
            ]
        pairs = zip(found["tokens"], found["top_logprobs"], strict=True)
        return [_Position(str(token), {str(t): _log(p) for t, p in top.items()}) for token, top in pairs]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        return []


def _log(value: Any) -> float:
    number = float(value)
    if math.isnan(number) or number > 1e-3:
        raise ValueError(value)
    return min(number, 0.0)


def _leads_up(written: str, lead: str) -> bool:
    """Return whether the verdict comes next: the lead's last line was written, or nothing where there is no lead."""
    last = lead.strip().rpartition("\n")[2]
    return written.rstrip().endswith(last) if last else not written.strip()


def _key(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@GUARD_KINDS.register("openai_server")
def openai_server(config: OpenAIServerConfig, folder: Path) -> ServerGuard:
    """Return the guard; nothing is asked of the server yet."""
    return ServerGuard(config, FAMILIES.get(config.family))
