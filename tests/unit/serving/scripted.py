"""Systems whose answers are written down, and a real server on a free port of the loopback."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from softguard.core import Conversation, Piece, Reply, ReplySettings, Verdict
from softguard.serving import Address, Limits, Served, create_app
from softguard.serving.server import make_server, url_of


@dataclass
class Scripted:
    """Says its words one a pass. With `gate`, each pass waits for it; `fault` is raised before the second word."""

    name: str = "student"
    words: Sequence[str] = ("One ", "two ", "three")
    reply: Reply = field(default_factory=lambda: Reply("One two three", -1.5))
    context: int | None = 100
    gate: threading.Semaphore | None = None
    fault: Exception | None = None
    passes: int = 0
    left: int = 0
    asked: list[tuple[Conversation, ReplySettings]] = field(default_factory=list)

    def prompt_length(self, conversation: Conversation) -> int:
        return sum(len(m.content.split()) for m in conversation.messages)

    def stream(self, conversation: Conversation, key: str, settings: ReplySettings) -> Iterator[Piece]:
        self.asked.append((conversation, settings))
        try:
            for number, word in enumerate(self.words, 1):
                if self.gate:
                    self.gate.acquire()
                self.passes += 1
                if self.fault and number == 2:
                    raise self.fault
                last = number == len(self.words)
                yield Piece(word, number, self.reply if last else None, number if last else 0)
        finally:
            self.left += 1

    def respond(self, conversations, ids, settings, progress=None) -> list[Reply]:
        return [self.reply for _ in conversations]

    def refusal_log_odds(self, conversations) -> list[float]:
        return [self.reply.refusal_log_odds for _ in conversations]


class FixedGuard:
    """Says the same of every pair."""

    name, fingerprint = "fixed", "fixed-1"

    def __init__(self, verdict: Verdict) -> None:
        self._verdict = verdict

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        return [self._verdict for _ in conversations]


@contextmanager
def serving(served: Served, limits: Limits | None = None, *, api_key: str | None = None, hosts=None) -> Iterator[str]:
    """Give the URL of a running server; at the end it has shut down, and so has its thread."""
    server = make_server(create_app(served, limits, api_key=api_key, hosts=hosts))
    with Address("127.0.0.1", 0).listen() as listening:
        url = url_of(listening)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        wait_for(lambda: server.started)
        try:
            yield url
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def wait_for(true, seconds: float = 60.0) -> None:
    """Wait until something is so; seconds are for machines that do other work."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.005)
