"""`softguard serve`: what it checks before it loads, what it hands over, and a clean end of the real process."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from softguard.cli import serve as command
from softguard.errors import ConfigError
from softguard.serving.server import Address
from tests.unit.serving.scripted import Scripted

ROOT = Path(__file__).parents[3]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A run of scripted systems; what the server would have been given is noted."""
    (tmp_path / "manifest.json").write_text("{}")
    opened = SimpleNamespace(config={"model": {"name": "tiny"}, "teacher": {"guard": "mini"}})
    monkeypatch.setattr("softguard.runs.RunDir.open", lambda path: opened)
    monkeypatch.setattr(command, "fetch_missing", lambda stages, **given: noted.update(given))
    noted = {}

    def systems(path, guard):
        noted["loaded_guard"] = guard
        made = {name: Scripted(name) for name in ("base", "student")}
        noted["systems"] = made
        return SimpleNamespace(systems=made, guard=None, threshold=0.5, fingerprint="abc")

    def serving(app, address, ready):
        noted["app"], noted["address"] = app, address
        ready("http://127.0.0.1:1")

    monkeypatch.setattr("softguard.recipes.systems.run_systems", systems)
    monkeypatch.setattr("softguard.serving.serve", serving)
    return SimpleNamespace(path=tmp_path, noted=noted)


def test_the_runs_own_guard_is_loaded_and_every_system_warmed_up(run, capsys):
    command.serve(run.path, port=0)
    assert run.noted["loaded_guard"] == run.noted["guard"] == "mini"
    assert all(system.passes >= 2 for system in run.noted["systems"].values())
    shown = capsys.readouterr().err
    assert "base, student: page http://127.0.0.1:1/, interface http://127.0.0.1:1/v1" in shown
    assert "warning" not in shown


@pytest.mark.parametrize(("named", "loaded"), [("none", None), ("keyword", "keyword")])
def test_another_guard_or_none(run, named, loaded):
    command.serve(run.path, port=0, guard=named)
    assert run.noted["loaded_guard"] == loaded


def test_an_open_server_is_warned_of(run, capsys, monkeypatch):
    command.serve(run.path, host="0.0.0.0", port=0)
    assert "open to anybody, for there is no --api-key-env" in capsys.readouterr().err
    monkeypatch.setenv("KEY_OF_THIS_TEST", "secret words")
    command.serve(run.path, host="0.0.0.0", port=0, api_key_env="KEY_OF_THIS_TEST")
    shown = capsys.readouterr().err
    assert "open to whoever has the key" in shown
    assert "secret" not in shown


def test_nothing_is_loaded_where_the_key_or_the_port_is_missing(run, monkeypatch):
    monkeypatch.delenv("KEY_OF_THIS_TEST", raising=False)
    with pytest.raises(ConfigError, match="KEY_OF_THIS_TEST"):
        command.serve(run.path, port=0, api_key_env="KEY_OF_THIS_TEST")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="a free port"):
        command.serve(run.path, port=taken.getsockname()[1])
    with pytest.raises(ConfigError, match="a free port"):
        command.serve(run.path, host="no.such.host.invalid", port=0)
    assert "loaded_guard" not in run.noted


def test_without_the_extra_the_error_names_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "softguard.serving", None)
    with pytest.raises(ConfigError, match=r"softguard\[serve\]"):
        command.serve(run.path)


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("number", range(4))
def test_what_is_local(number, local):
    hosts = {True: ("127.0.0.1", "127.8.8.8", "::1", "localhost"), False: ("0.0.0.0", "::", "192.168.0.5", "example.org")}
    address = Address(hosts[local][number])
    assert address.local is local
    assert (address.names is None) is not local


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process_and_tells_those_who_wait(sent, tmp_path):
    script = textwrap.dedent("""
        import threading
        from softguard.serving import Address, Served, create_app, serve
        from tests.unit.serving.scripted import Scripted
        class Slow:
            def acquire(self):
                threading.Event().wait(0.05)
        system = Scripted(words=["word "] * 100_000, gate=Slow(), context=None)
        serve(create_app(Served({"student": system})), Address(port=0), lambda url: print(url, flush=True))
        print("over", flush=True)
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        import httpx

        url = process.stdout.readline().strip()
        asked = {"model": "student", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=asked, timeout=120) as response:
            lines = response.iter_lines()
            assert "chat.completion.chunk" in next(lines)
            started = time.monotonic()
            process.send_signal(sent)
            assert "server_closing" in "\n".join(lines)
        process.wait(60)
        assert time.monotonic() - started < 30
        said, complaints = process.communicate()
        assert process.returncode == (0 if sent == signal.SIGINT else -signal.SIGTERM)
        assert ("over" in said) == (sent == signal.SIGINT)
        assert "Traceback" not in complaints
    finally:
        process.kill()
