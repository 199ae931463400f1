"""Drafts from an OpenAI-compatible server (vLLM, llama-server) for jobs that are too large to sample here.

One idea: the server draws, this process computes the states in one pass over what was drawn, and so sees whether the server
runs the same model: tokens drawn from p(.|x) have on average the log-probability -H(p) under p itself. The sum of
log p(y_t) + H_t over all tokens is one of martingale differences: its mean is 0 and its variance is known, whatever the texts.
Another model, template or temperature, or a nucleus, moves it. Whatever fails ends the job with its shards kept: no draft is
ever made up.

References:
    vLLM takes the model's own generation config for what a request leaves open (github.com/vllm-project/vllm/pull/11164), hence
    every such setting is sent.
"""

import math
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from softguard.core.protocols import Progress
from softguard.errors import CompatibilityError, ConfigError, RuntimeProgramError
from softguard.models import Generation, LanguageModel, response_states
from softguard.models.drawing import uniforms
from softguard.runtimes.server_client import ClientConfig, Failure, ServerClient, host_of, key_headers
from softguard.teacher.cache import Retokenised, TeacherSettings
from softguard.teacher.guarded_system import GuardedSystem

ROWS = 64
"""Positions whose logits are held together."""
MAX_UNLIKE = 0.05
"""Largest share of texts that the tokenizer here may not bring back: odd characters are one thing, another tokenizer is all."""
SIGMAS = 4.0
_CUT = "�"
"""What a server writes for a character that a draft was cut in."""
_WHOLE_VOCABULARY = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "repeat_penalty": 1.0}
"""p(y|x) and nothing less, by the names of vLLM and llama-server."""


class DraftServerConfig(BaseModel):
    """A server that draws drafts."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    url: str = Field(pattern=r"^https?://\S+$", description="of the API, with its /v1")
    model: str = Field(min_length=1, description="the name by which the server knows the base model")
    prompt: Literal["ids", "text"] = Field("ids", description="send token ids, or the rendered text where a server takes no ids")
    body: dict[str, bool | int | float | str] = Field(
        {}, description="sent with every request, over ours: what this server needs to draw from the whole vocabulary"
    )
    max_gap: float = Field(
        0.1,
        gt=0,
        description="nats per token by which drafts may be less or more probable here than the model's own, beyond chance",
    )
    api_key_env: str = Field("", description="environment variable that holds the key; empty sends none")
    client: ClientConfig = Field(ClientConfig(timeout_s=120, in_flight=32), description="time-outs, retries, limits")


def load_draft_server(reference: str) -> DraftServerConfig:
    """Return the settings of `NAME@http://SERVER/v1` or of a `.toml` file.

    Raises:
        ConfigError: it is neither, or a setting is wrong.
    """
    if reference.endswith(".toml"):
        path = Path(reference).expanduser()
        try:
            given = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"a TOML file of a server at {path}", str(error)[:120], "check path and content") from error
    else:
        name, _, url = reference.partition("@")
        given = {"model": name, "url": url}
    try:
        return DraftServerConfig.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        hint = f"write NAME@http://SERVER/v1, or a .toml file with {', '.join(DraftServerConfig.model_fields)}"
        raise ConfigError("a server that draws the drafts", f"{where}: {first['msg']}", hint) from error


@dataclass(frozen=True)
class _Drawn:
    """A draft's ids; `own` where the server gave them, `alike` where they make the text that it gave."""

    ids: list[int]
    own: bool
    alike: bool


class ServerDrafts:
    """A `DraftSource`: a server draws, the states are computed here."""

    def __init__(self, config: DraftServerConfig, client: ServerClient | None = None) -> None:
        """Ask nothing yet.

        Args:
            config: the settings.
            client: who asks; None makes one of the settings.

        Raises:
            ConfigError: httpx is not installed, the address is none, or a key is not set.
        """
        self._config, self._host = config, host_of(config.url)
        self._client = client or ServerClient(config.url, config.client, key_headers(config.api_key_env))

    @property
    def described(self) -> Mapping[str, Any]:
        """Address, without a password, the model's name there, and what is sent."""
        parts = urlsplit(self._config.url)
        address = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
        return {"url": address, **self._config.model_dump(include={"model", "prompt", "body"})}

    def draw(
        self,
        system: GuardedSystem,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[str],
        settings: TeacherSettings,
        progress: Progress | None,
    ) -> list[Generation]:
        """Return a draft of the server for each prompt, with the states and log-probability that the model here gives it.

        The refusal log-odds are NaN: nothing here asks for them.

        Raises:
            CompatibilityError: the server runs another model or tokenizer, or draws otherwise than asked.
            RuntimeProgramError: it gave no draft for some prompts.
        """
        self._client.begin()
        given: Sequence[Any] = [list(p) for p in prompts]
        if self._config.prompt == "text":
            given = [system.lm.tokenizer.decode(ids, skip_special_tokens=False) for ids in given]
        drawn: list[_Drawn | Failure] = []
        with ThreadPoolExecutor(max_workers=self._config.client.in_flight) as pool:
            # Threads wait for the server and no more: a fast tokenizer is not to be used by two at a time.
            for prompt, reply in zip(prompts, pool.map(partial(self._ask, settings), given, keys), strict=True):
                drawn.append(reply if isinstance(reply, Failure) else self._understood(system, prompt, reply, settings))
                if progress:
                    progress(len(drawn), len(prompts))
        there = [d for d in drawn if isinstance(d, _Drawn)]
        if len(there) < len(drawn):
            ((reason, _),) = Counter(d.reason for d in drawn if isinstance(d, Failure)).most_common(1)
            found = f"{len(drawn) - len(there)} of {len(drawn)} without one ({self._host}: {reason})"
            raise RuntimeProgramError(
                "a draft for every prompt", found, "check the server; finished shards are kept, and the same command goes on"
            )
        unlike = sum(not d.alike for d in there)
        if unlike > MAX_UNLIKE * len(there) + 1:
            raise CompatibilityError(
                f"texts that the tokenizer of {system.lm.reference} brings back",
                f"{unlike} of {len(there)} from {self._host} that it does not",
                "serve the same model, with its own tokenizer",
            )
        scored = _score(system.lm, prompts, [d.ids for d in there], settings.temperature)
        self._check(scored, system.lm)
        made: list[Generation] = []
        for one, states, log_prob in zip(there, scored.states, scored.log_probs, strict=True):
            kind = Generation if one.own else Retokenised
            made.append(kind(tuple(one.ids), one.ids[-1] not in system.lm.stop_ids, math.nan, False, states, log_prob))
        return made

    def _ask(self, settings: TeacherSettings, prompt: Sequence[int] | str, key: str) -> dict[str, Any] | Failure:
        """Return the reply to one prompt."""
        body = {
            **{"model": self._config.model, "prompt": prompt, "max_tokens": settings.max_new_tokens},
            **{"temperature": settings.temperature, **_WHOLE_VOCABULARY},
            "seed": int(uniforms(settings.seed, f"server:{key}", 1)[0] * 2**31),
            **{"add_special_tokens": False, "return_token_ids": True},
            **self._config.body,
        }
        return self._client.post("/completions", body, key)

    def _understood(
        self, system: GuardedSystem, prompt: Sequence[int], reply: Mapping[str, Any], settings: TeacherSettings
    ) -> _Drawn | Failure:
        """Return the draft of a reply."""
        counted = _dict(reply.get("usage")).get("prompt_tokens")
        if isinstance(counted, int) and counted != len(prompt):
            raise CompatibilityError(
                f"a prompt of {len(prompt)} tokens, as it was sent",
                f"{counted} on {self._host}",
                'serve the same model; set prompt = "ids" where the server adds an opening token to a text',
            )
        choices = reply.get("choices")
        choice = _dict(choices[0]) if isinstance(choices, list) and choices else {}
        text, end = choice.get("text"), choice.get("finish_reason")
        if not isinstance(text, str):
            return Failure("a reply without a text", gone=False)
        if end not in ("stop", "length"):
            return Failure(f"an answer that ended by {str(end)[:20]!r}", gone=False)
        return _read(system, text, choice.get("token_ids"), settings.max_new_tokens, ended=end == "stop")

    def _check(self, scored: "_Scored", lm: LanguageModel) -> None:
        """Raise where the drafts are not plausible draws from the model here."""
        allowed = self._config.max_gap + SIGMAS * scored.error
        if abs(scored.gap) <= allowed:
            return
        why = (
            ("less", "another model, quantisation, chat template or a higher temperature")
            if scored.gap < 0
            else ("more", "a nucleus, top-k, a penalty or a lower temperature")
        )
        raise CompatibilityError(
            f"drafts as probable to {lm.reference} as its own, within {allowed:.2f} nats per token",
            f"drafts of {self._host} that are {abs(scored.gap):.2f} {why[0]} probable: {why[1]}",
            "serve the same weights and have it draw from the whole vocabulary (`body`); or allow it: max_gap in a .toml file",
        )


def _read(system: GuardedSystem, text: str, given: Any, limit: int, *, ended: bool) -> _Drawn:
    """Return the ids of a draft: the server's own where it gave them, else those of its text."""
    lm, renderer = system.lm, system.renderer
    own = isinstance(given, list) and bool(given) and all(isinstance(i, int) for i in given)
    if own and not all(0 <= i < len(lm.embedding_weight) for i in given):
        found = f"a token numbered {max(given)}"
        raise CompatibilityError(f"tokens of {lm.reference}", found, "serve the same model, with its own tokenizer")
    ids = list(given) if own else renderer.encode_response(text.rstrip(_CUT))
    stops = [at for at, i in enumerate(ids) if i in lm.stop_ids]
    ids = ids[: stops[0] + 1] if stops else ids
    alike = _plain(renderer.decode(ids)) == _plain(text)
    if not stops and (ended or not ids):
        ids.append(lm.turn_end_id)
    return _Drawn(ids[:limit], own, alike)


@dataclass(frozen=True)
class _Scored:
    """What the model here makes of drafts.

    Attributes:
        states: T x D for each.
        log_probs: nats at temperature 1, of each.
        gap: nats per token by which they are more probable than draws of the model are on average.
        error: standard error of `gap` if they are its draws.
    """

    states: list[Tensor]
    log_probs: list[float]
    gap: float
    error: float


@torch.inference_mode()
def _score(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], temperature: float
) -> _Scored:
    """Return the states of the drafts and how probable they are, beside what is to be expected at this temperature."""
    found = response_states(lm, prompts, responses)
    log_probs, total, variance = [0.0] * len(prompts), 0.0, 0.0
    row = found.row.tolist()
    for start in range(0, len(row), ROWS):
        part = slice(start, start + ROWS)
        logits, targets = lm.head(found.states[part]), found.targets[part, None]
        own = (logits.gather(1, targets).squeeze(1) - logits.logsumexp(-1)).tolist()
        for number, value in zip(row[part], own, strict=True):
            log_probs[number] += value
        if temperature == 0:
            total += float((logits.gather(1, targets).squeeze(1) - logits.max(-1).values).double().sum())
            continue
        log_q = torch.log_softmax(logits / temperature, -1).clamp(min=-1e4)  # 0 * inf is NaN
        q = log_q.exp()
        mean = (q * log_q).sum(-1)
        total += float((log_q.gather(1, targets).squeeze(1) - mean).double().sum())
        variance += float(((q * log_q.square()).sum(-1) - mean.square()).clamp(min=0).double().sum())
    lengths = [len(r) for r in responses]
    return _Scored(list(torch.split(found.states, lengths)), log_probs, total / len(row), math.sqrt(variance) / len(row))


def _plain(text: str) -> str:
    """Return a text without what decoding leaves off at its ends."""
    return text.strip().rstrip(_CUT).strip()


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
