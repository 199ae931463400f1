"""What a client is told when it cannot be served, in OpenAI's form."""

from typing import Any

from softguard.errors import SoftguardError

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error"}


class RequestError(SoftguardError, ValueError):
    """A request that is answered with an error. The message is for the client: no path, no state of the server."""

    def __init__(self, status: int, expected: str, found: str, todo: str, *, code: str, param: str | None = None) -> None:
        super().__init__(expected, found, todo)
        self.status, self.code, self.param = status, code, param

    def body(self) -> dict[str, Any]:
        """Return the error object (https://platform.openai.com/docs/guides/error-codes)."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def internal_error() -> RequestError:
    """Return what a client is told of a fault that is ours: that it is one."""
    return RequestError(500, "an answer", "a fault of the server", "tell who runs it; its log says more", code="internal_error")


def closing_error() -> RequestError:
    """Return what a client is told when the server ends."""
    return RequestError(503, "a running server", "one that is shutting down", "try again later", code="server_closing")
