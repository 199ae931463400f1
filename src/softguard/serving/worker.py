"""One thread makes all answers: a pass of a network for each in turn, so that none waits for the whole of another.

Answers do not share batches: what one says cannot depend on who else asks. The time of each is the sum of its own passes, as if
no other were made.
"""

import asyncio
import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass

from softguard.core import Conversation, Guard, Reply, ReplySettings, StreamingSystem, Verdict
from softguard.core.protocols import Piece
from softguard.errors import DataError
from softguard.serving.request_error import RequestError, closing_error, internal_error

log = logging.getLogger("softguard.serving")
KEY = "chat"
"""The id of every request: with a seed, its random stream is the same each time."""


@dataclass(frozen=True)
class Job:
    """One answer to make: at most `wanted` tokens, or as many of `most` as the context holds. `guard` judges it at the end."""

    system: StreamingSystem
    conversation: Conversation
    wanted: int | None
    most: int
    temperature: float
    seed: int
    guard: Guard | None = None


@dataclass(frozen=True)
class Outcome:
    """A finished answer.

    Attributes:
        reply: as `System.respond` gives it.
        prompt_tokens: virtual tokens included.
        answer_tokens: of the reply's text.
        tokens_made: by the model, shown or not.
        first_token_ms: the machine's work until there was something to show.
        answer_ms: its work until the end, without the verdict on it that was asked for besides.
        verdict: the guard's, where it was asked for and the system has none of its own.
    """

    reply: Reply
    prompt_tokens: int
    answer_tokens: int
    tokens_made: int
    first_token_ms: float
    answer_ms: float
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Started:
    """The prompt is read and fits."""

    prompt_tokens: int


Event = Started | str | Outcome
"""What a client can be told: it begins, a piece of text, it is done."""


class Ticket:
    """A job that was taken in. Its events are read in the event loop, its turns happen in the worker's thread."""

    def __init__(self, job: Job, loop: asyncio.AbstractEventLoop) -> None:
        self.cancelled = False
        self._job, self._loop = job, loop
        self._events: asyncio.Queue[Event | RequestError] = asyncio.Queue()
        self._steps = self._work()
        self._seconds = 0.0
        self._since = 0.0

    async def events(self) -> AsyncIterator[Event]:
        """Give the events up to the outcome.

        Raises:
            RequestError: the answer cannot be made.
        """
        while True:
            event = await self._events.get()
            if isinstance(event, RequestError):
                raise event
            yield event
            if isinstance(event, Outcome):
                return

    def turn(self) -> bool:
        """Do one pass; return whether there is more to do."""
        self._since = time.perf_counter()
        try:
            if self.cancelled:
                self._steps.close()
                return False
            event = next(self._steps)
        except RequestError as error:
            self.fail(error)
            return False
        except Exception as error:
            # Without the error's own text, which may repeat the prompt.
            log.error("%s in\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
            self.fail(internal_error())
            return False
        self._seconds += time.perf_counter() - self._since
        if event:
            self._deliver(event)
        return not isinstance(event, Outcome)

    def fail(self, error: RequestError) -> None:
        """Tell the client that there will be no answer."""
        self._deliver(error)

    def _deliver(self, event: Event | RequestError) -> None:
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the loop has ended, and with it whoever listened
            self.cancelled = True

    def _elapsed_ms(self) -> float:
        return 1000 * (self._seconds + time.perf_counter() - self._since)

    def _work(self) -> Generator[Event, None, None]:
        """Give an event for each pass, the empty text where there is nothing to tell."""
        job = self._job
        length, allowed = _fit(job)
        yield Started(length)
        first = 0.0
        last = Piece()
        for last in job.system.stream(job.conversation, KEY, ReplySettings(allowed, job.temperature, job.seed)):
            if last.text or last.reply is not None:
                first = first or self._elapsed_ms()
            if last.reply is None:
                yield last.text
        answer_ms, reply = self._elapsed_ms(), last.reply
        assert reply is not None
        yield last.text
        verdict = None
        if job.guard is not None and reply.p_safe is None and not reply.ungraded:
            verdict = job.guard.judge([job.conversation.answered(reply.text)])[0]
        yield Outcome(reply, length, last.answer_tokens, last.tokens, first, answer_ms, verdict)


def _fit(job: Job) -> tuple[int, int]:
    """Return the prompt's length and how long the answer may be.

    Raises:
        RequestError: turns that the model's template does not take, or more tokens than its context holds.
    """
    try:
        length = job.system.prompt_length(job.conversation)
    except DataError as error:
        found = "others"
        raise RequestError(
            400, "turns that the model's template takes", found, "change their order", code="invalid_value", param="messages"
        ) from error
    context = job.system.context
    room = job.most if context is None else context - length
    if room < (job.wanted or 1):
        found = f"{length} and {job.wanted or 1}"
        expected = f"prompt and answer of at most {context} tokens together"
        code = "context_length_exceeded"
        raise RequestError(400, expected, found, "shorten the messages, or the answer", code=code, param="messages")
    return length, job.wanted or min(job.most, room)


class Worker:
    """The thread and its queue."""

    def __init__(self, at_a_time: int, waiting: int) -> None:
        self._at_a_time, self._most = at_a_time, at_a_time + waiting
        self._changed = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._open = 0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="softguard-answers", daemon=True)

    @property
    def open(self) -> int:
        """How many answers are waited for or made."""
        return self._open

    def start(self) -> None:
        """Begin to take turns."""
        self._thread.start()

    def close(self) -> None:
        """Stop after the pass that is under way; whoever waits is told. Blocks until then."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, job: Job) -> Ticket:
        """Take in a job; to be called in the event loop.

        Raises:
            RequestError: 429 where too many wait, 503 where the server ends.
        """
        ticket = Ticket(job, asyncio.get_running_loop())
        with self._changed:
            if self._closing:
                raise closing_error()
            if self._open >= self._most:
                raise RequestError(429, "a free place", f"{self._open} requests", "try again shortly", code="server_busy")
            self._open += 1
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Give up a job: it has no further turn, and one that waits leaves the queue. Nothing happens to a finished one."""
        with self._changed:
            ticket.cancelled = True
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                self._open -= 1

    def _run(self) -> None:
        running: deque[Ticket] = deque()
        while self._admit(running):
            ticket = running.popleft()
            if ticket.turn():
                running.append(ticket)
            else:
                with self._changed:
                    self._open -= 1
        for ticket in (*running, *self._waiting):
            ticket.fail(closing_error())

    def _admit(self, running: deque[Ticket]) -> bool:
        """Wait until there is something to do and move what waits to what runs; return False where the thread has to end."""
        with self._changed:
            while not (self._closing or running or self._waiting):
                self._changed.wait()
            while self._waiting and len(running) < self._at_a_time:
                running.append(self._waiting.popleft())
            return not self._closing
