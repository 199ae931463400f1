"""The scripting contract: order, resume, bad lines, binding to the settings."""

import json
from pathlib import Path

import pytest

from softguard.core import ReplySettings, Verdict
from softguard.errors import DataError, GuardError
from softguard.recipes.jobs import CHUNK, judge_file, respond_file
from softguard.recipes.student import ModelSystem
from softguard.teacher import GuardedSystem
from tests.fakes import KeywordGuard, tiny_model


def write(path: Path, rows) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def read(path: Path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


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


SEPARATORS = "one\u2028two\u2029three\x85four"


class Killed(ModelSystem):
    """Dies in its second batch."""

    calls = 0

    def respond(self, *args, **options):
        self.calls += 1
        if self.calls == 2:
            raise KeyboardInterrupt
        return super().respond(*args, **options)


def test_a_killed_job_goes_on_and_ends_the_same(tmp_path, system):
    """U+2028, U+2029 and U+0085 end a line for str.splitlines and for nobody else."""
    source = write(tmp_path / "in.jsonl", [{"id": i, "prompt": f"{i} {SEPARATORS}"} for i in range(2 * CHUNK + 3)])
    settings, out = ReplySettings(3, temperature=1.0), tmp_path / "out.jsonl"
    respond_file(system, settings, "base", source, tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        respond_file(Killed("base", system.lm), settings, "base", source, out)
    partial = tmp_path / "out.jsonl.partial"
    lines = whole.split(b"\n")
    assert partial.read_bytes().split(b"\n")[1:-1] == lines[:CHUNK]
    partial.write_bytes(partial.read_bytes() + b"\n".join(lines[CHUNK : CHUNK + 5]) + b'\n{"torn')
    seen, batches = [], []

    class Counting(ModelSystem):
        def respond(self, conversations, *args, **options):
            batches.append(len(conversations))
            return super().respond(conversations, *args, **options)

    respond_file(Counting("base", system.lm), settings, "base", source, out, lambda done, total: seen.append((done, total)))
    assert out.read_bytes() == whole
    assert batches == [CHUNK, 3]  # what was torn off with its batch is made again, in the batches of an unbroken run
    assert seen == [(CHUNK, len(lines) - 1), (2 * CHUNK, len(lines) - 1), (len(lines) - 1, len(lines) - 1)]


def test_a_kill_while_resuming_loses_nothing(tmp_path, system, monkeypatch):
    source = write(tmp_path / "in.jsonl", [{"id": i, "prompt": f"{i}"} for i in range(CHUNK + 3)])
    partial = tmp_path / "o.partial"
    with pytest.raises(KeyboardInterrupt):
        respond_file(Killed("base", system.lm), ReplySettings(3), "base", source, tmp_path / "o")
    made = partial.read_bytes()

    def killed(path, text, **options):
        path.open("w").close()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", killed)
    dead = Killed("base", system.lm)
    dead.calls = 1
    with pytest.raises(KeyboardInterrupt):
        respond_file(dead, ReplySettings(3), "base", source, tmp_path / "o")
    assert partial.read_bytes() == made


def test_other_settings_start_afresh(tmp_path, system):
    source = write(tmp_path / "in.jsonl", [{"id": "a", "prompt": "hello"}])
    (tmp_path / "out.jsonl.partial").write_text('{"settings": "other"}\n{"id": "stale"}\n')
    respond_file(system, ReplySettings(2), "base", source, tmp_path / "out.jsonl")
    assert [r["id"] for r in read(tmp_path / "out.jsonl")] == ["a"]


def test_missing_input_is_an_error(tmp_path, system):
    with pytest.raises(DataError, match="readable"):
        respond_file(system, ReplySettings(2), "base", tmp_path / "none.jsonl", tmp_path / "out.jsonl")


def test_what_no_utf8_can_hold_and_what_nests_too_deeply_is_a_bad_line(tmp_path, system):
    deep = '{"id": "deep", "prompt": "x", "response": "y", "more": ' + "[" * 200_000 + "]" * 200_000 + "}"
    lines = [{"id": "a", "prompt": "\ud83d", "response": "y"}, {"id": "\ud83d", "prompt": "x", "response": "y"}]
    lines += [{"id": "b", "prompt": "x", "response": "y", "mine": ["\udfff"]}, deep, {"id": "c", "prompt": "x", "response": "y"}]
    source = write(tmp_path / "in.jsonl", lines)
    for result in (
        judge_file(KeywordGuard(), source, tmp_path / "out.jsonl"),
        respond_file(system, ReplySettings(2), "base", source, tmp_path / "out.jsonl"),
    ):
        assert (result.done, result.bad) == (1, 4)
        assert [e["line"] for e in read(tmp_path / "out.jsonl.errors.jsonl")] == [1, 2, 3, 4]
        assert [r["id"] for r in read(tmp_path / "out.jsonl")] == ["c"]


def test_what_the_model_cannot_take_is_a_bad_line(tmp_path):
    lm = tiny_model("gpt2")  # 512 positions
    alternating = "{% if messages[0]['role'] == 'assistant' %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    lm.tokenizer.chat_template = alternating + lm.tokenizer.chat_template
    turns = [{"role": r, "content": "hi"} for r in ("assistant", "user")]
    rows = [{"id": "order", "messages": turns}, {"id": "long", "prompt": "x" * 500}, {"id": "good", "prompt": "hello"}]
    source, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    for answering in (ModelSystem("base", lm), GuardedSystem(lm, KeywordGuard())):
        result = respond_file(answering, ReplySettings(4), answering.name, source, out)
        assert (result.done, result.bad) == (1, 2)
        order, long = (e["error"] for e in read(tmp_path / "out.jsonl.errors.jsonl"))
        assert "Roles must alternate" in order
        assert "a prompt of at most 508 tokens" in long


@pytest.mark.parametrize("out", ["folder", "in.jsonl", "./in.jsonl", "link.jsonl"])
def test_an_out_that_cannot_be_written_is_an_error_before_any_work(out, tmp_path):
    source = write(tmp_path / "in.jsonl", [{"id": "a", "prompt": "x", "response": "y"}])
    given = source.read_bytes()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.jsonl").symlink_to(source)

    class Never(KeywordGuard):
        def judge(self, conversations):
            raise AssertionError("work was done")

    with pytest.raises(DataError, match="--out"):
        judge_file(Never(), source, tmp_path / out)
    assert source.read_bytes() == given
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "in.jsonl", "link.jsonl"]


def test_nothing_of_an_earlier_job_passes_through(tmp_path, system):
    class Silent(KeywordGuard):
        fingerprint = "silent"

        def judge(self, conversations):
            return [Verdict(ungraded="no answer") for _ in conversations]

    mine = {"id": "a", "prompt": "bomb", "mine": 1}
    source = write(tmp_path / "1.jsonl", [mine])
    guarded = tmp_path / "2.jsonl"
    respond_file(GuardedSystem(system.lm, KeywordGuard()), ReplySettings(2), "guarded", source, guarded)
    judge_file(Silent(), guarded, tmp_path / "3.jsonl")
    kept = {k: v for k, v in read(guarded)[0].items() if k != "p_safe"}
    assert read(tmp_path / "3.jsonl") == [{**kept, "ungraded": "no answer"}]
    judge_file(KeywordGuard(), tmp_path / "3.jsonl", tmp_path / "4.jsonl")
    verdict = {"p_safe": float(kept["replaced"]), "categories": {}}
    assert read(tmp_path / "4.jsonl") == [{**kept, **verdict}]
    respond_file(system, ReplySettings(2), "base", tmp_path / "4.jsonl", tmp_path / "5.jsonl")
    assert set(read(tmp_path / "5.jsonl")[0]) == {*mine, "response", "refusal_log_odds"}
    own = write(tmp_path / "6.jsonl", [{**mine, "categories": ["mine"]}])
    respond_file(system, ReplySettings(2), "base", own, tmp_path / "7.jsonl")
    assert read(tmp_path / "7.jsonl")[0]["categories"] == ["mine"]


@pytest.mark.parametrize(("threshold", "refused"), [(-1e9, True), (1e9, False)])
def test_a_system_with_an_operating_point_says_whether_it_refused(threshold, refused, tmp_path, system):
    source = write(tmp_path / "in.jsonl", [{"id": "a", "prompt": "hello"}])
    respond_file(ModelSystem("student", system.lm, threshold=threshold), ReplySettings(2), "s", source, tmp_path / "out.jsonl")
    row = read(tmp_path / "out.jsonl")[0]
    assert row["refused"] is refused
    assert (row["refusal_log_odds"] > threshold) is refused


def test_judge_takes_messages_as_respond_does(tmp_path):
    user, said = {"role": "user", "content": "bomb"}, {"role": "assistant", "content": "ok"}
    good = [
        {"id": "closed", "messages": [user, said]},
        {"id": "answered", "messages": [user, said, user], "response": "Sorry"},
    ]
    bad = [
        {"id": "open", "messages": [user]},
        {"id": "twice", "messages": [user, said], "response": "ok"},
        {"id": "both", "prompt": "bomb", "messages": [user, said]},
        {"id": "nobody", "messages": [said]},
        {"id": "role", "messages": [{"role": "robot", "content": "x"}, said]},
        {"id": "number", "messages": [user], "response": 3},
    ]
    out = tmp_path / "out.jsonl"
    result = judge_file(KeywordGuard(), write(tmp_path / "in.jsonl", [*good, *bad]), out)
    assert [(r["id"], r["p_safe"]) for r in read(out)] == [("closed", 0.0), ("answered", 1.0)]
    assert (result.done, result.bad) == (2, 6)


def test_a_guard_that_goes_stops_the_job_and_what_is_done_is_kept(tmp_path):
    class Going(KeywordGuard):
        left = 2 * CHUNK - 1
        asked = 0

        def judge(self, conversations):
            verdicts = []
            for verdict in super().judge(conversations):
                self.asked += 1
                verdicts.append(verdict if self.asked <= self.left else Verdict(ungraded="server gone"))
            return verdicts

    rows = [{"id": i, "prompt": "x", "response": "y"} for i in range(4 * CHUNK)]
    source, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    with pytest.raises(GuardError, match=rf"33 of {4 * CHUNK} so far \(server gone\)"):
        judge_file(Going(), source, out)  # the second batch ends with the one ungraded line that is allowed
    assert not out.exists()
    assert len(read(tmp_path / "out.jsonl.partial")) == 1 + 2 * CHUNK
    again = Going()
    again.left = 10**6
    assert judge_file(again, source, out).done == 4 * CHUNK
    assert again.asked == 2 * CHUNK
    assert [r["ungraded"] for r in read(out) if "ungraded" in r] == ["server gone"]


def test_ungraded_lines_of_a_run_before_count(tmp_path):
    class Silent(KeywordGuard):
        def judge(self, conversations):
            return [Verdict(ungraded="server gone") for _ in conversations]

    rows = [{"id": i, "prompt": "x", "response": "y"} for i in range(4 * CHUNK)]
    source, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    for done in (1, 1):
        with pytest.raises(GuardError, match=f"{(done + 1) * CHUNK} of"):
            judge_file(Silent(), source, out, max_ungraded=0.3)
        assert len(read(tmp_path / "out.jsonl.partial")) == 1 + done * CHUNK


def test_judge_says_what_was_read_in_part(tmp_path):
    class Cut(KeywordGuard):
        def judge(self, conversations):
            return [Verdict(0.5, truncated=len(c.response) > 3) for c in conversations]

    rows = [{"id": "a", "prompt": "x", "response": "short", "judged_in_part": False}, {"id": "b", "prompt": "x", "response": "y"}]
    judge_file(Cut(), write(tmp_path / "in.jsonl", [json.dumps(r) for r in rows]), tmp_path / "out.jsonl")
    first, second = read(tmp_path / "out.jsonl")
    assert first["judged_in_part"] is True
    assert "judged_in_part" not in second
