"""llama-server: found, started, asked, stopped; and what is said where it cannot be."""

import os

import pytest

from softguard.core import Conversation
from softguard.errors import RuntimeProgramError
from softguard.runtimes import LlamaServer, find_llama_server
from softguard.sources import is_cached
from softguard.sources.catalogue import find_entry
from tests.tiny_gguf import write_tiny_gguf

has_server = pytest.mark.skipif(not is_cached(find_entry("llama-server")), reason="run `softguard models pull llama-server`")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_gguf(tmp_path_factory.mktemp("server") / "tiny.gguf")


def test_a_chosen_program_that_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("SOFTGUARD_LLAMA_SERVER", str(tmp_path))
    with pytest.raises(RuntimeProgramError, match="SOFTGUARD_LLAMA_SERVER"):
        find_llama_server()


def test_elsewhere_one_on_the_path_is_taken(monkeypatch, tmp_path):
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.delenv("SOFTGUARD_LLAMA_SERVER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeProgramError, match="install"):
        find_llama_server()
    (tmp_path / "llama-server").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "llama-server").chmod(0o755)
    assert find_llama_server() == tmp_path / "llama-server"


def test_a_program_that_ends_at_once(tiny, tmp_path):
    (tmp_path / "llama-server").write_text("#!/bin/sh\necho error: no room\nexit 3\n")
    (tmp_path / "llama-server").chmod(0o755)
    with pytest.raises(RuntimeProgramError, match=r"exit code 3: error: no room"), LlamaServer(tiny, tmp_path / "llama-server"):
        pass


@has_server
def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(RuntimeProgramError, match=r"loads at bad\.gguf"), LlamaServer(tmp_path / "bad.gguf", find_llama_server()):
        pass


@has_server
def test_it_answers_and_is_gone_afterwards(tiny):
    with LlamaServer(tiny, find_llama_server()) as server:
        process = server._process.pid
        ids = server.prompt_ids(Conversation.from_prompt("the", system="he"))
        assert server.render(Conversation.from_prompt("the", system="he")).startswith("<|im_start|>system\nhe<|im_end|>")
        found = server.log_probs(ids, 5)
        made = server.generate(ids, 3)
        assert len(found) == 5
        assert made[0] == max(found, key=lambda k: found[k])
        assert len(made) == 3
        reply = server.answer(Conversation.from_prompt("the", system="he"), 3, 2)
        assert reply.truncated
        assert len(reply.first) == 2
        assert server.resident_bytes > 1_000_000
        assert server.name.startswith("llama-server ")
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
