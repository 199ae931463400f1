"""An OpenAI-compatible server in a thread: what it replies is a function of the path, the request and its number."""

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0


Reply = Callable[[str, dict[str, Any], int], Answer]


@dataclass
class FakeServer:
    url: str
    requests: list[tuple[str, dict[str, Any], Mapping[str, str]]] = field(default_factory=list)
    most_in_flight: int = 0


def completion(**p: float) -> Answer:
    """Return a completion whose one token has these alternatives."""
    top = {token: math.log(value) for token, value in p.items()}
    likeliest = max(top, key=lambda t: top[t])
    return Answer({"choices": [{"text": likeliest, "logprobs": {"tokens": [likeliest], "top_logprobs": [top]}}]})


def chat(*tokens: tuple[str, Mapping[str, float]]) -> Answer:
    """Return a chat completion of these tokens, each with its alternatives."""
    content = [
        {
            "token": token,
            "logprob": math.log(top.get(token, 1.0)),
            "top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in top.items()],
        }
        for token, top in tokens
    ]
    return Answer({"choices": [{"message": {"content": "".join(t for t, _ in tokens)}, "logprobs": {"content": content}}]})


@contextmanager
def serving(reply: Reply) -> Iterator[FakeServer]:
    lock = threading.Lock()
    in_flight = 0

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            nonlocal in_flight
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                number = len(server.requests)
                server.requests.append((self.path, request, dict(self.headers)))
                in_flight += 1
                server.most_in_flight = max(server.most_in_flight, in_flight)
            answer = reply(self.path, request, number)
            time.sleep(answer.delay_s)
            data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            with lock:
                in_flight -= 1
            try:
                self.send_response(answer.status)
                for name, value in {"content-length": str(len(data)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)
            except BrokenPipeError:
                pass  # the client gave up waiting, as it should

        def log_message(self, *_: object) -> None:
            return None

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = FakeServer(f"http://127.0.0.1:{http.server_address[1]}/v1")
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
