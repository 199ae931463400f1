"""From an application to a listening socket, and back: a clean end at Ctrl-C, with everybody told who still waits."""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import uvicorn
from fastapi import FastAPI

from softguard.errors import ConfigError
from softguard.serving.gate import LOCAL_NAMES

_LAST_SECONDS = 5
"""Connections that are still open so long after the end was asked for are cut."""


@dataclass(frozen=True)
class Address:
    """Where to listen; port 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = 8080

    @property
    def local(self) -> bool:
        """Whether only programs on this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def names(self) -> frozenset[str] | None:
        """The names that a Host header may give; None for any, where the server is not local."""
        return LOCAL_NAMES | {self.host} if self.local else None

    def listen(self) -> socket.socket:
        """Return the listening socket.

        Raises:
            ConfigError: the address is taken, or none of this machine.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            return socket.create_server((self.host, self.port), family=family)
        except (OSError, OverflowError) as error:
            found = getattr(error, "strerror", None) or str(error)
            raise ConfigError(f"a free port at {self.host}:{self.port}", found, "choose another --port or --host") from error


def url_of(listening: socket.socket) -> str:
    """Return the address of a socket as a browser takes it."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn's server, which ends the answers under way before it waits for their connections."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell those who wait, then shut down."""
        app: Any = self.config.app
        await asyncio.to_thread(app.state.worker.close)
        await super().shutdown(sockets)


def make_server(app: FastAPI) -> Server:
    """Return a server that is not yet running."""
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=_LAST_SECONDS,
        lifespan="on",
    )
    return Server(config)


def serve(app: FastAPI, address: Address, ready: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM. `ready` is called with the URL once connections are taken."""
    with address.listen() as listening:
        ready(url_of(listening))
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again when all is done
            make_server(app).run(sockets=[listening])
