"""Who is let in: the right host name, and the key where there is one. Every response gets the headers that browsers heed."""

import hashlib
import hmac
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from softguard.serving.request_error import RequestError

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cache-control": "no-store"}


class Gate:
    """ASGI middleware.

    A server on the loopback answers to local names alone: else any web page could reach it through a name of its own that
    resolves to 127.0.0.1 (DNS rebinding). `api_key` guards all below /v1.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None, api_key: str | None) -> None:
        self._app, self._hosts = app, hosts
        self._key = None if api_key is None else _digest(api_key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or say why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        error = self._objection(scope["path"], Headers(scope=scope))
        if error is None:
            await self._app(scope, receive, send_with_headers)
            return
        headers = {"www-authenticate": "Bearer"} if error.status == 401 else None
        await JSONResponse(error.body(), error.status, headers)(scope, receive, send_with_headers)

    def _objection(self, path: str, headers: Headers) -> RequestError | None:
        if self._hosts is not None and host_name(headers.get("host", "")) not in self._hosts:
            todo = "use http://127.0.0.1, or serve with --host"
            return RequestError(403, "a local name in the Host header", "another", todo, code="unknown_host")
        if self._key is None or not path.startswith("/v1"):
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # Digests: they are as long as each other, whatever was given, and compare in constant time.
        if scheme.lower() == "bearer" and hmac.compare_digest(_digest(given.strip()), self._key):
            return None
        return RequestError(
            401, "Authorization: Bearer and the key", "none or another", "send the server's key", code="invalid_api_key"
        )


def host_name(host: str) -> str:
    """Return the name of a Host header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
