"""The scripting contract: order, resume, bad lines, binding to the settings."""

import json
from pathlib import Path

import pytest

from softguard.core import ReplySettings
from softguard.errors import DataError
from softguard.recipes.jobs import CHUNK, judge_file, respond_file
from softguard.recipes.student import ModelSystem
from tests.fakes import KeywordGuard, tiny_model


def write(path: Path, rows) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def read(path: Path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def system():
    return ModelSystem("base", tiny_model())


def test_respond_keeps_order_and_fields(tmp_path, system):
    rows = [{"id": f"r{i}", "prompt": "x" * (9 - i), "extra": i} for i in range(5)]
    rows.append({"id": "m", "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]})
    out = tmp_path / "out.jsonl"
    result = respond_file(system, ReplySettings(4), "base", write(tmp_path / "in.jsonl", rows), out)
    assert (result.done, result.bad) == (6, 0)
    assert [{k: v for k, v in r.items() if k not in ("response", "refusal_log_odds")} for r in read(out)] == rows
    assert all(isinstance(r["refusal_log_odds"], float) for r in read(out))
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name or "errors" in p.name] == []


def test_bad_lines_are_named_and_the_good_ones_done(tmp_path):
    lines = ["{broken", {"id": "a", "prompt": "bomb", "response": "ok"}, {"id": "a", "prompt": "x", "response": "y"}]
    lines += [{"prompt": "no id", "response": ""}, {"id": "b", "prompt": 3, "response": ""}, "[1]"]
    out = tmp_path / "v.jsonl"
    result = judge_file(KeywordGuard(), write(tmp_path / "in.jsonl", lines), out)
    assert (result.done, result.bad) == (1, 5)
    assert read(out)[0]["p_safe"] == 0.0
    assert [e["line"] for e in read(tmp_path / "v.jsonl.errors.jsonl")] == [1, 3, 4, 5, 6]


def test_a_killed_job_goes_on_and_ends_the_same(tmp_path, system):
    source = write(tmp_path / "in.jsonl", [{"id": i, "prompt": f"prompt {i}"} for i in range(CHUNK + 3)])
    settings = ReplySettings(3, temperature=1.0)
    respond_file(system, settings, "base", source, tmp_path / "whole.jsonl")

    class Killed(ModelSystem):
        calls = 0

        def respond(self, *args, **options):
            Killed.calls += 1
            if Killed.calls == 2:
                raise KeyboardInterrupt
            return super().respond(*args, **options)

    with pytest.raises(KeyboardInterrupt):
        respond_file(Killed("base", system.lm), settings, "base", source, tmp_path / "out.jsonl")
    partial = tmp_path / "out.jsonl.partial"
    partial.write_text(partial.read_text() + '{"torn')
    respond_file(system, settings, "base", source, tmp_path / "out.jsonl")
    assert read(tmp_path / "out.jsonl") == read(tmp_path / "whole.jsonl")


def test_other_settings_start_afresh(tmp_path, system):
    source = write(tmp_path / "in.jsonl", [{"id": "a", "prompt": "hello"}])
    (tmp_path / "out.jsonl.partial").write_text('{"settings": "other"}\n{"id": "stale"}\n')
    respond_file(system, ReplySettings(2), "base", source, tmp_path / "out.jsonl")
    assert [r["id"] for r in read(tmp_path / "out.jsonl")] == ["a"]


def test_missing_input_is_an_error(tmp_path, system):
    with pytest.raises(DataError, match="readable"):
        respond_file(system, ReplySettings(2), "base", tmp_path / "none.jsonl", tmp_path / "out.jsonl")
