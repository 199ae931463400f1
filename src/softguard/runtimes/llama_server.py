"""llama.cpp's `llama-server`, unmodified: started on a free loopback port, asked over HTTP, and stopped whatever happens.

References:
    Its endpoints: https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
"""

import ctypes
import http.client
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from softguard.core import Conversation
from softguard.core.protocols import Progress
from softguard.errors import RuntimeProgramError
from softguard.runtimes.protocol import RuntimeReply, TimedAnswer
from softguard.sources import resolve

PROGRAM = "SOFTGUARD_LLAMA_SERVER"
CATALOGUE_NAME = "llama-server"
_PACKAGED_FOR = ("Linux", "x86_64")
_START_SECONDS, _STOP_SECONDS, _ANSWER_SECONDS = 120.0, 10.0, 300.0


def find_llama_server(progress: Progress | None = None) -> Path:
    """Return the program: `SOFTGUARD_LLAMA_SERVER`, else the pinned build where it runs here, else one on the PATH.

    Raises:
        RuntimeProgramError: there is none.
        SourceError: the pinned build cannot be fetched.
    """
    chosen = os.environ.get(PROGRAM)
    if chosen:
        if not os.access(chosen, os.X_OK) or Path(chosen).is_dir():
            raise RuntimeProgramError(f"a program in {PROGRAM}", repr(chosen), "set it to the path of llama-server")
        return Path(chosen)
    if uses_packaged_server():
        return resolve(CATALOGUE_NAME, progress=progress).path / "bin" / "llama-server"
    installed = shutil.which("llama-server")
    if installed is None:
        todo = f"install llama.cpp, or set {PROGRAM} to its llama-server"
        raise RuntimeProgramError("llama-server on the PATH", "none", todo)
    return Path(installed)


def uses_packaged_server() -> bool:
    """Return whether the pinned build is the one to use here."""
    return not os.environ.get(PROGRAM) and (platform.system(), platform.machine()) == _PACKAGED_FOR


class LlamaServer:
    """A running server with one model, on the processor alone; a context manager. One request at a time, but for `timed`."""

    def __init__(
        self,
        model: Path,
        program: Path,
        *,
        threads: int = 1,
        context: int = 4096,
        slots: int = 1,
        arguments: Sequence[str] = (),
    ) -> None:
        """Set up; nothing runs before `with`.

        Args:
            model: a GGUF file.
            program: `find_llama_server()`.
            threads: of prompt and generation.
            context: positions of each slot.
            slots: requests that are answered at once.
            arguments: more of the server's own, as `--logit-bias`.
        """
        self._model, self._program = model, program
        self._arguments = ["-t", str(threads), "-tb", str(threads), "-c", str(context * slots), "-np", str(slots), *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._build, self._port = "", 0

    @property
    def name(self) -> str:
        """The program with its build."""
        return f"llama-server {self._build}".strip()

    def __enter__(self) -> "LlamaServer":
        port = self._port = _free_port()
        fixed = ["--host", "127.0.0.1", "--port", str(port), "--jinja", "--device", "none", "--no-webui", "--offline"]
        command = [str(self._program), "-m", str(self._model), *fixed, *self._arguments]
        self._log = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
            self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_SECONDS)
            self._wait_until_healthy()
            self._build = str(self._ask("GET", "/props").get("build_info", ""))
        except OSError as error:
            self._stop()
            raise RuntimeProgramError("a llama-server that starts", str(error), "check the program") from error
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    @property
    def resident_bytes(self) -> int:
        """The memory that the process holds now, its mapped model included; 0 where the system does not tell."""
        return self._status_bytes("VmRSS")

    @property
    def peak_resident_bytes(self) -> int:
        """See `TimedRuntime.peak_resident_bytes`."""
        return self._status_bytes("VmHWM")

    def _status_bytes(self, field: str) -> int:
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text() if self._process else ""
        except OSError:
            return 0
        kilobytes = [line.split()[1] for line in status.splitlines() if line.startswith(f"{field}:")]
        return int(kilobytes[0]) * 1024 if kilobytes else 0

    def render(self, conversation: Conversation) -> str:
        """Return the text that the server's chat template makes."""
        return str(self._ask("POST", "/apply-template", {"messages": conversation.to_dicts()})["prompt"])

    def tokenize(self, text: str) -> list[int]:
        """Return ids as the server takes a prompt: special tokens parsed, and those added that the file tells it to add."""
        found = self._ask("POST", "/tokenize", {"content": text, "add_special": True, "parse_special": True})
        return [int(i) for i in found["tokens"]]

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """Return the ids of a conversation by the server's own template and tokenizer."""
        return self.tokenize(self.render(conversation))

    def log_probs(self, ids: Sequence[int], top: int) -> dict[int, float]:
        """Return the log-probabilities of the `top` likeliest next tokens, before any sampler."""
        body = {"prompt": list(ids), "n_predict": 1, "n_probs": top, "temperature": 0.0, "cache_prompt": True}
        found = self._ask("POST", "/completion", body).get("completion_probabilities")
        if not found:
            raise RuntimeProgramError(
                "probabilities of the next token", "none, as where a turn ends at once", "ask another prompt"
            )
        return _top(found[0])

    def generate(self, ids: Sequence[int], count: int, temperature: float = 0.0, seed: int = 0) -> list[int]:
        """Return at most `count` next ids; above temperature 0 of the whole distribution, no token cut off."""
        sampler = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": seed} if temperature else {}
        body = {"prompt": list(ids), "n_predict": count, "temperature": temperature, "return_tokens": True, **sampler}
        return [int(i) for i in self._ask("POST", "/completion", body)["tokens"]]

    def timed(self, ids: Sequence[int], count: int, *, slot: int = 0, cached: bool = True) -> TimedAnswer:
        """See `TimedRuntime.timed`. Tokens that end within a character may come without their ids: they are counted."""
        body = {
            "prompt": list(ids),
            "n_predict": count,
            "temperature": 0.0,
            "ignore_eos": True,
            "cache_prompt": cached,
            "id_slot": slot,
            "stream": True,
            "return_tokens": True,
        }
        arrivals: list[float] = []
        made: list[int] = []
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_ANSWER_SECONDS)
        started = time.perf_counter()
        try:
            connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            for line in response:
                now = time.perf_counter() - started
                if line.startswith(b"data: {"):
                    event = json.loads(line[6:])
                    arrivals += [now] * (int(event.get("tokens_predicted", 0)) - len(arrivals))
                    made += [] if event.get("stop") else [int(i) for i in event.get("tokens") or []]
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise RuntimeProgramError("an answer in a stream", f"{error!r}; {self._said()}", "run it again") from error
        finally:
            connection.close()
        if len(arrivals) != count:
            found = f"{len(arrivals)} with status {response.status}; {self._said()}"
            raise RuntimeProgramError(f"{count} tokens", found, "check the model file and the lengths that were asked for")
        return TimedAnswer(tuple(arrivals), tuple(made))

    def answer(self, conversation: Conversation, max_new_tokens: int, top: int) -> RuntimeReply:
        """Return the greedy answer of the chat endpoint."""
        body = {
            "messages": conversation.to_dicts(),
            "max_tokens": max_new_tokens,
            "temperature": 0.0,
            "logprobs": True,
            "top_logprobs": top,
        }
        choice = self._ask("POST", "/v1/chat/completions", body)["choices"][0]
        content = (choice.get("logprobs") or {}).get("content") or []
        truncated = choice.get("finish_reason") == "length"
        return RuntimeReply(str(choice["message"].get("content") or ""), truncated, _top(content[0]) if content else {})

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        assert self._connection is not None, "use it in a `with` block"
        given = json.dumps(body) if body is not None else None
        # The server ends connections that say nothing for some seconds, and between two questions much may be computed here.
        self._connection.close()
        try:
            self._connection.request(method, path, given, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise RuntimeProgramError(f"an answer to {path}", f"{error!r}; {self._said()}", "run it again") from error
        if response.status != 200:
            found = f"status {response.status}: {content.decode(errors='replace')[:200]}"
            raise RuntimeProgramError(f"an answer to {path}", found, "check the model file")
        answer: dict[str, Any] = json.loads(content)
        return answer

    def _wait_until_healthy(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                found = f"exit code {self._process.returncode}: {self._said()}"
                raise RuntimeProgramError(f"a model that llama-server loads at {self._model.name}", found, "check the model file")
            try:
                self._ask("GET", "/health")
                return
            except RuntimeProgramError:
                time.sleep(0.05)
        raise RuntimeProgramError("a llama-server that is ready in time", self._said(), "try again with less on this machine")

    def _said(self, last: int = 3) -> str:
        """Return the last lines of the server's log that speak of an error, else its last."""
        if self._log is None:
            return ""
        end = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, end - 20_000))
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        failed = [line for line in lines if "error" in line.lower() or "fail" in line.lower()]
        return " | ".join((failed or lines)[-last:])[:600]

    def _stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._log is not None:
            self._log.close()
        self._process = self._log = self._connection = None


def _top(position: dict[str, Any]) -> dict[int, float]:
    return {int(entry["id"]): float(entry["logprob"]) for entry in position["top_logprobs"]}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _die_with_parent() -> None:
    """Ask Linux to end the server when we are killed (PR_SET_PDEATHSIG): a `finally` would not run."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
