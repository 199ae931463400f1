"""The HTTP interface: /v1/chat/completions, /v1/models, /health and the page at /."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Collection
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from softguard.serving.chat_request import ChatRequest, parse_request
from softguard.serving.chat_response import ResponseHead, event, ours
from softguard.serving.gate import Gate
from softguard.serving.playground import playground
from softguard.serving.request_error import RequestError, internal_error
from softguard.serving.served import Limits, Served
from softguard.serving.worker import Event, Job, Outcome, Started, Ticket, Worker

T = TypeVar("T")
GONE = 499
"""What is logged of a request whose client left; nobody reads it."""


def create_app(
    served: Served, limits: Limits | None = None, *, api_key: str | None = None, hosts: Collection[str] | None = None
) -> FastAPI:
    """Return the application; its worker thread runs from start-up to shutdown and is `app.state.worker`.

    Args:
        served: the systems.
        limits: None takes the defaults.
        api_key: asked for below /v1; None lets everybody in.
        hosts: names that the Host header may have; None takes any.
    """
    limits = limits or Limits()
    worker = Worker(limits.concurrency, limits.queue)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.to_thread(worker.close)

    # No pages of FastAPI's own: they load their scripts from elsewhere.
    app = FastAPI(title="softguard", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.worker = worker
    app.add_middleware(Gate, hosts=hosts, api_key=api_key)
    app.add_exception_handler(RequestError, _tell)
    app.add_exception_handler(HTTPException, _tell_http)
    app.add_exception_handler(Exception, _tell_fault)
    page, policy = playground(served, needs_key=api_key is not None, longest=limits.max_tokens)

    @app.get("/")
    async def index() -> Response:
        return HTMLResponse(page, headers={"content-security-policy": policy})

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "open_requests": worker.open}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_card(served, name) for name in served.systems]}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        _known(served, name)
        return _card(served, name)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = parse_request(await _body(request, limits))
        seed = asked.seed if asked.seed is not None else secrets.randbits(31)
        return await _answer(request, worker, served, asked, _job(served, asked, limits, seed), seed)

    return app


def _card(served: Served, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": served.created, "owned_by": "softguard"}


def _known(served: Served, name: str) -> None:
    if name not in served.systems:
        known = ", ".join(served.systems)
        shown = repr(name[:40].encode(errors="backslashreplace").decode())
        raise RequestError(404, f"a model among {known}", shown, "name one of these", code="model_not_found", param="model")


async def _body(request: Request, limits: Limits) -> bytes:
    """Return the body, read no further than the limit.

    Raises:
        RequestError: 415, 413, or 408.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        # A browser sends JSON to another site only after asking, and we do not say yes.
        raise RequestError(415, "Content-Type: application/json", "another", "set it", code="unsupported_media_type")
    too_large = RequestError(
        413, f"a body of at most {limits.max_body} bytes", "a larger one", "shorten it", code="body_too_large"
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limits.max_body:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.max_body:
                    raise too_large
    except TimeoutError as error:
        found = f"no end of it in {limits.body_seconds:g} s"
        raise RequestError(408, "a whole body", found, "send it faster", code="request_timeout") from error
    return bytes(body)


def _job(served: Served, asked: ChatRequest, limits: Limits, seed: int) -> Job:
    """Return what is to be done for a request.

    Raises:
        RequestError: an unknown model, too long an answer, or a verdict without a guard.
    """
    _known(served, asked.model)
    wanted = asked.answer_tokens
    if wanted is not None and wanted > limits.max_tokens:
        name = "max_tokens" if asked.max_completion_tokens is None else "max_completion_tokens"
        expected = f"at most {limits.max_tokens} tokens in an answer"
        raise RequestError(400, expected, f"{wanted}", f"lower {name}", code="invalid_value", param=name)
    if asked.judge and served.guard is None:
        raise RequestError(
            400, "a server with a guard", "none", "leave judge out, or serve with --guard", code="no_guard", param="judge"
        )
    guard = served.guard if asked.judge else None
    system, turns = served.systems[asked.model], asked.conversation()
    return Job(system, turns, wanted, limits.max_tokens, asked.temperature, seed, guard)


async def _answer(request: Request, worker: Worker, served: Served, asked: ChatRequest, job: Job, seed: int) -> Response:
    """Return the response; a client that leaves ends the work."""
    head = ResponseHead(f"chatcmpl-{secrets.token_hex(12)}", int(time.time()), asked.model, f"fp_{served.fingerprint[:12]}")
    threshold = served.thresholds.get(asked.model)
    ticket = worker.submit(job)
    events = ticket.events()
    try:
        if not asked.stream:
            heard = await _unless_gone(request, _collect(events))
            if heard is None:
                worker.cancel(ticket)
                return Response(status_code=GONE)
            text, outcome = heard
            return JSONResponse(head.completion(text, outcome, ours(outcome, threshold, seed)))
        # Errors that show at the start are answered with their status, not in the stream.
        if await _unless_gone(request, anext(events)) is None:
            worker.cancel(ticket)
            return Response(status_code=GONE)
    except BaseException:
        worker.cancel(ticket)
        raise

    async def stream() -> AsyncIterator[str]:
        yield event(head.opening())
        try:
            async for one in events:
                if isinstance(one, str):
                    yield event(head.piece(one))
                elif isinstance(one, Outcome):
                    yield event(head.closing(one, ours(one, threshold, seed)))
                    if asked.stream_options.include_usage:
                        yield event(head.counted(one))
                    yield event("[DONE]")
        except RequestError as error:
            yield event(error.body())

    return _EventStream(stream(), worker, ticket)


async def _collect(events: AsyncIterator[Event]) -> tuple[str, Outcome]:
    pieces: list[str] = []
    async for one in events:
        if isinstance(one, Outcome):
            return "".join(pieces), one
        if not isinstance(one, Started):
            pieces.append(one)
    raise internal_error()


async def _unless_gone(request: Request, work: Awaitable[T]) -> T | None:
    """Return what `work` returns, or None as soon as the client has closed its connection."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()


class _EventStream(StreamingResponse):
    """Server-sent events of one ticket; however the response ends, so does the work."""

    def __init__(self, content: AsyncIterator[str], worker: Worker, ticket: Ticket) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"x-accel-buffering": "no"})
        self._worker, self._ticket = worker, ticket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._worker.cancel(self._ticket)


async def _tell(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    headers = {"retry-after": "2"} if error.status in (429, 503) else None
    return JSONResponse(error.body(), error.status, headers)


async def _tell_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    found = "another method" if error.status_code == 405 else "another path"
    told = RequestError(
        error.status_code, "a request of the interface", found, "see docs/serving.md", code="not_found", param=None
    )
    return JSONResponse(told.body(), error.status_code, error.headers)


async def _tell_fault(request: Request, error: Exception) -> Response:
    told = internal_error()
    return JSONResponse(told.body(), told.status)
