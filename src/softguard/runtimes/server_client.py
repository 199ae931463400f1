"""Requests to a server that may be slow, busy, limited or gone: time-outs, retries, a rate limit, a bound on requests in flight.

One idea: a failure is a value. `post` returns the reply or a `Failure` with the reason in a few words (never the server's text,
which may repeat the judged one), and after several failures in a row it stops trying, so that a dead server costs seconds.
Nothing here knows what is asked.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import Random
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from softguard.errors import ConfigError

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""


class ClientConfig(BaseModel):
    """How a server is asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    timeout_s: float = Field(30.0, gt=0, description="to connect, and between two pieces of a reply")
    attempts: int = Field(4, gt=0, description="of one request, the first one included")
    first_delay_s: float = Field(0.5, ge=0, description="before the second attempt; doubled for each further one, with jitter")
    max_delay_s: float = Field(30.0, ge=0, description="longest wait; a server that asks for a longer one has failed")
    in_flight: int = Field(8, gt=0, description="requests at a time")
    requests_per_second: float = Field(0.0, ge=0, description="upper limit; 0 is none")
    give_up_after: int = Field(5, gt=0, description="failed requests in a row after which no more are sent")
    seed: int = Field(0, ge=0, description="of the jitter")


@dataclass(frozen=True)
class Failure:
    """Why there is no reply; `gone` where the server itself did not give one, for all the attempts."""

    reason: str
    gone: bool = True


class ServerClient:
    """One server. Safe to use from several threads."""

    def __init__(
        self,
        url: str,
        config: ClientConfig,
        headers: Mapping[str, str],
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open no connection yet.

        Raises:
            ConfigError: httpx is not installed, or the address is none.
        """
        self._httpx = _httpx()
        self._config, self._sleep, self._clock = config, sleep, clock
        limits = self._httpx.Limits(max_connections=config.in_flight)
        sent = {"content-type": "application/json", **headers}
        try:
            self._client = self._httpx.Client(
                base_url=url.rstrip("/"), headers=sent, timeout=config.timeout_s, limits=limits, follow_redirects=False
            )
        except self._httpx.InvalidURL as error:
            raise ConfigError("the address of a server", str(error), "correct the URL") from error
        self._in_flight = threading.BoundedSemaphore(config.in_flight)
        self._lock = threading.Lock()
        self._next_slot = 0.0
        self._failures = 0

    def begin(self) -> None:
        """Forget earlier failures: a new piece of work is tried afresh."""
        with self._lock:
            self._failures = 0

    def post(self, path: str, body: Mapping[str, Any], key: str) -> dict[str, Any] | Failure:
        """Return the server's JSON object, or why there is none; `key` names the request for its jitter."""
        with self._in_flight:
            if self._failures >= self._config.give_up_after:
                return Failure(f"not sent: the {self._config.give_up_after} requests before it failed")
            result = self._retried(path, body, key)
        with self._lock:
            self._failures = self._failures + 1 if isinstance(result, Failure) and result.gone else 0
        return result

    def _retried(self, path: str, body: Mapping[str, Any], key: str) -> dict[str, Any] | Failure:
        jitter = Random(f"{self._config.seed}:{key}")  # the same in every run and on every platform
        content = json.dumps(dict(body)).encode()  # ASCII: half a surrogate pair in an answer must not end the run
        failure = Failure("not sent")
        for attempt in range(self._config.attempts):
            self._wait_for_slot()
            asked_delay: float | None = None
            try:
                response = self._client.post(path, content=content)
            except self._httpx.TimeoutException:
                failure = Failure(f"no reply within {self._config.timeout_s:g} s")
            except self._httpx.HTTPError as error:
                failure = Failure(f"unreachable ({type(error).__name__})")
            else:
                if response.status_code == 200:
                    reply = _json(response)
                    if reply is not None:
                        return reply
                    failure = Failure("a reply that is no JSON object")
                else:
                    failure = Failure(f"status {response.status_code}")
                    if response.status_code not in _PASSING:
                        return Failure(failure.reason, gone=False)
                    asked_delay = retry_after_s(response.headers.get("retry-after"))
            if attempt + 1 == self._config.attempts:
                break
            if asked_delay is not None and asked_delay > self._config.max_delay_s:
                return Failure(f"{failure.reason}, to be asked again in {asked_delay:.0f} s")
            delay = min(self._config.first_delay_s * 2**attempt, self._config.max_delay_s) * (0.5 + jitter.random() / 2)
            self._sleep(max(delay, asked_delay or 0.0))
        return Failure(f"{failure.reason}, {self._config.attempts} attempts")

    def _wait_for_slot(self) -> None:
        """Keep to the rate limit: each request takes the next free slot."""
        if not self._config.requests_per_second:
            return
        with self._lock:
            now = self._clock()
            slot = max(now, self._next_slot)
            self._next_slot = slot + 1.0 / self._config.requests_per_second
        if slot > now:
            self._sleep(slot - now)


def host_of(url: str) -> str:
    """Return what a message says of a server: no password that its address may hold.

    Raises:
        ConfigError: it is no address.
    """
    try:
        return urlsplit(url).hostname or "server"
    except ValueError as error:
        raise ConfigError("the address of a server", str(error), "correct the URL") from error


def key_headers(api_key_env: str) -> Mapping[str, str]:
    """Return the header with the key that an environment variable holds; none where no variable is named.

    Raises:
        ConfigError: it is not set.
    """
    if not api_key_env:
        return {}
    key = os.environ.get(api_key_env)
    if not key:
        raise ConfigError(f"the key in the environment variable {api_key_env}", "none", "set it, or leave api_key_env out")
    return {"Authorization": f"Bearer {key}"}


def retry_after_s(value: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, a number or a date; None where it says nothing readable.

    References:
        RFC 9110, section 10.2.3.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())


def _json(response: Any) -> dict[str, Any] | None:
    try:
        reply = response.json()
    except ValueError:
        return None
    return reply if isinstance(reply, dict) else None


def _httpx() -> ModuleType:
    try:
        import httpx
    except ImportError as error:
        raise ConfigError("httpx, to ask a server", "it is not installed", "pip install 'softguard[remote]'") from error
    return httpx
