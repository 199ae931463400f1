"""Costs in a runtime: what is asked of it, and what is made of its times; once in llama-server itself, on a tiny model."""

import json
import time
from pathlib import Path

import pytest

from softguard.core import Conversation
from softguard.costs import RuntimeCosts, Spread
from softguard.costs.runtime_results import coverage
from softguard.errors import CompatibilityError, ConfigError
from softguard.recipes.export import Base
from softguard.recipes.runtime_costs import Files, RuntimeSettings, find_files, measure
from softguard.recipes.runtime_timing import Bench
from softguard.reports import runtime_markdown, runtime_plot, runtime_tables
from softguard.runtimes import LlamaServer, TimedAnswer, find_llama_server
from softguard.sources import is_cached
from softguard.sources.catalogue import find_entry
from softguard.sources.checks import file_sha256

READ, MAKE = 0.001, 0.010
"""Seconds that the fake takes for a token that it reads and for one that it makes."""
VIRTUAL = [900, 901, 902, 903]
FEW = RuntimeSettings(prompt_tokens=(16, 4), parallel=(1, 2), answer_tokens=(2, 5), speed_tokens=3, rounds=6, threads=1)
has_server = pytest.mark.skipif(not is_cached(find_entry("llama-server")), reason="run `softguard models pull llama-server`")


def silent(*_):
    pass


class FakeRuntime:
    """Takes time for what it has not kept: a word is a token, and each slot keeps its last request."""

    running: list["FakeRuntime"] = []  # noqa: RUF012 - emptied by the fixture
    all: list["FakeRuntime"] = []  # noqa: RUF012

    def __init__(self, model, slots, context):
        self.model, self.slots, self.context = model, slots, context
        self.content = model.read_bytes()
        self.kept: dict[int, list[int]] = {}
        self.words: dict[str, int] = {}
        self.asked: list[tuple[list[int], int, int, bool]] = []

    def __enter__(self):
        if self.content == b"broken":
            raise OSError("it does not start")
        FakeRuntime.running.append(self)
        FakeRuntime.all.append(self)
        return self

    def __exit__(self, *_):
        FakeRuntime.running.remove(self)

    @property
    def name(self):
        return "fake 1"

    @property
    def peak_resident_bytes(self):
        return len(self.content) * 2**20

    def tokenize(self, text):
        return [0, *(self.words.setdefault(w, 1000 + len(self.words)) for w in text.split())]

    def prompt_ids(self, conversation: Conversation):
        virtual = VIRTUAL if self.content.startswith(b"student") else []
        turns = [x for m in conversation.messages for x in (len(m.role), *self.tokenize(m.content)[1:])]
        return [0, *virtual, *turns, 3]

    def timed(self, ids, count, *, slot=0, cached=True):
        assert len(ids) + count <= self.context
        kept = self.kept.get(slot, []) if cached else []
        alike = next((i for i, (a, b) in enumerate(zip(ids, kept, strict=False)) if a != b), min(len(ids), len(kept)))
        made = tuple(range(500, 500 + count))
        self.asked.append((list(ids), count, slot, cached))
        self.kept[slot] = [*ids, *made]
        reading = READ * (len(ids) - min(alike, len(ids) - 1))
        return TimedAnswer(tuple(reading + MAKE * (i + 1) for i in range(count)), made)


@pytest.fixture
def files(tmp_path):
    FakeRuntime.running, FakeRuntime.all = [], []
    (tmp_path / "base.gguf").write_bytes(b"base")
    (tmp_path / "student.gguf").write_bytes(b"student")
    return Files("tiny", tmp_path / "base.gguf", tmp_path / "student.gguf", "be very careful", "I will not do so")


@pytest.fixture
def found(files):
    return measure(files, FEW, FakeRuntime, silent, {"base": "b", "student": "s"})


def cell(found, system, prompt_tokens, parallel=1):
    return next(c for c in found.cells if (c.system, c.prompt_tokens, c.parallel) == (system, prompt_tokens, parallel))


def answer(found, system, tokens, request="benign"):
    return next(a for a in found.answers if (a.system, a.answer_tokens, a.request) == (system, tokens, request))


@pytest.mark.parametrize("parallel", [1, 2])
@pytest.mark.parametrize("words", [4, 16])
def test_what_is_kept_costs_nothing_and_what_is_not_does(found, words, parallel):
    base = 1000 * (READ * (words + 1) + MAKE)  # the words and the end of the turn: what is before them is kept
    assert cell(found, "base", words, parallel).first_token_ms.median == pytest.approx(base)
    for kept in ("student_cached", "system_prompt"):
        assert cell(found, kept, words, parallel).first_token_ratio.median == pytest.approx(1)
    recomputed = base + 1000 * READ * (2 + len(VIRTUAL))
    assert cell(found, "student_recomputed", words, parallel).first_token_ratio.median == pytest.approx(recomputed / base)
    assert cell(found, "student_cached", words, parallel).read_tokens == words + 3 + len(VIRTUAL)
    for system in ("base", "guarded", "student_cached"):
        assert cell(found, system, words, parallel).tokens_per_second.median == pytest.approx(1 / MAKE)


def test_the_guarded_system_shows_nothing_before_its_guard_has_read_the_answer(found):
    count, question = FEW.speed_tokens, 8
    written = READ * 17 + MAKE * count
    read = READ * (16 + 3 + count + question) + MAKE
    assert cell(found, "guarded", 16).first_token_ms.median == pytest.approx(1000 * (written + read))
    guards = [r for r in FakeRuntime.all if r.model.name == "guard-base.gguf"]
    assert {(count, cached) for r in guards for _, count, _, cached in r.asked} == {(1, False)}
    whole = [ids for r in guards for ids, *_ in r.asked if ids[-question - count : -question] == [500, 501, 502]]
    assert len(whole) == FEW.rounds * 2 * (1 + 2)  # each prompt length, for one request and for two at once


def test_times_to_a_complete_answer(found):
    for tokens in FEW.answer_tokens:
        plain = READ * 17 + MAKE * tokens
        guarded = plain + READ * (16 + 3 + tokens + 8) + MAKE
        refused = READ * 17 + MAKE * 5  # "I will not do so"
        assert answer(found, "student_cached", tokens).answer_ms.median == pytest.approx(1000 * plain)
        assert answer(found, "student_cached", tokens).speedup.median == pytest.approx(guarded / plain)
        assert answer(found, "student_cached", tokens, "harmful").speedup.median == pytest.approx(guarded / refused)
        for request in ("benign", "harmful"):
            assert answer(found, "guarded", tokens, request).speedup.median == 1
    assert {a.system for a in found.answers if a.request == "harmful"} == {"guarded", "student_recomputed", "student_cached"}


def test_memory_files_and_processes(found, files):
    assert cell(found, "base", 4).peak_memory_bytes == 4 * 2**20
    assert cell(found, "guarded", 4).peak_memory_bytes == 8 * 2**20
    assert cell(found, "student_cached", 4).peak_memory_bytes == 7 * 2**20
    sizes = {s.system: (s.processes, s.model_bytes) for s in found.systems}
    assert sizes["guarded"] == (2, 8)
    assert sizes["student_cached"] == (1, 7)
    assert [r.slots for r in FakeRuntime.all] == [1] * 4 + [2] * 4
    guard = FakeRuntime.all[1].model
    assert guard != files.base
    assert not guard.exists()
    assert FakeRuntime.running == []


def test_everyone_is_asked_alike_in_each_round(found):
    assert len(found.cells) == 5 * 2 * 2
    assert all(len(c.first_token_ms.rounds) == FEW.rounds for c in found.cells)
    for runtime in FakeRuntime.all:
        assert {slot for _, _, slot, _ in runtime.asked} == set(range(runtime.slots))
    student = [r for r in FakeRuntime.all if r.model.name == "student.gguf"]
    assert {cached for r in student for *_, cached in r.asked} == {True, False}
    texts = [tuple(ids) for r in FakeRuntime.all if r.model.name != "guard-base.gguf" for ids, *_ in r.asked]
    assert len(set(texts)) > 0.9 * len(texts)


def test_texts_are_as_long_as_words_allow(files):
    class Letters(FakeRuntime):
        def tokenize(self, text):
            return [0, *(ord(c) for c in text)]

    paths = {name: files.base for name in ("base", "guard", "prompted", "student")}
    with Bench(paths, "", 1, lambda model, slots: Letters(model, slots, 4096)) as bench:
        for tokens in (12, 40, 100):
            assert tokens - 9 <= bench.count(bench._text(tokens)) <= tokens
    assert bench._text(1).isalpha()


def test_a_process_that_does_not_start_leaves_none_running(files):
    files.student.write_bytes(b"broken")
    with pytest.raises(OSError, match="does not start"):
        measure(files, FEW, FakeRuntime, silent)
    assert len(FakeRuntime.all) == 3
    assert FakeRuntime.running == []


def test_progress_is_whole(files):
    told = []
    measure(files, FEW, FakeRuntime, lambda stage, done, total, figures: told.append((done, total)))
    assert told[0] == (0, told[-1][1])
    assert [done for done, _ in told] == list(range(told[-1][1] + 1))


@pytest.mark.parametrize(
    "wrong", [{"prompt_tokens": ()}, {"parallel": (0,)}, {"answer_tokens": (-1,)}, {"rounds": 0}, {"speed_tokens": 1}]
)
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(ConfigError):
        RuntimeSettings(**wrong)


@pytest.mark.parametrize(
    ("n", "low", "high", "held"), [(1, 0, 0, 0), (5, 0, 4, 0.9375), (6, 0, 5, 0.96875), (9, 1, 7, 0.9609375)]
)
def test_intervals_by_order_statistics(n, low, high, held):
    spread = Spread.of(list(range(n))[::-1])
    assert (spread.low, spread.high) == (low, high)
    assert coverage(n) == pytest.approx(held)


def test_reports_are_views_of_the_result(found, tmp_path):
    assert RuntimeCosts.model_validate_json(found.model_dump_json()) == found
    text = runtime_markdown(found)
    ratio = cell(found, "guarded", 4, 2).first_token_ratio
    row = next(line for line in text.splitlines() if line.startswith("| 2 | 4 | Base, guard as large"))
    assert f"{ratio.median:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]" in row
    assert text.count("\n| ") == 1 + 20 + 1 + 5 + 3
    assert "fake 1" in text
    runtime_plot(found, tmp_path / "costs.svg")
    assert "<svg" in (tmp_path / "costs.svg").read_text()
    with pytest.raises(ConfigError, match="PLOT"):
        runtime_plot(found, tmp_path / "costs.bmpx")
    assert [t.row_count for t in runtime_tables(found)] == [5, 5, 5, 5, 8]


def write_export(folder: Path, base_sha256: str, **facts) -> Path:
    folder.mkdir()
    (folder / "s.gguf").write_bytes(b"student")
    said = {"file": "s.gguf", "base_sha256": base_sha256, "head_was_tied": True, **facts}
    (folder / "verify.json").write_text(json.dumps({"facts": said}))
    return folder


def test_the_files_of_an_export_are_found_and_checked(tmp_path, monkeypatch):
    base = tmp_path / "base.gguf"
    base.write_bytes(b"base")
    config = {"model": {"name": str(base)}, "evaluation": {"system_prompt": "p"}, "teacher": {"refusal_text": "no"}}
    monkeypatch.setattr("softguard.runs.RunDir.open", lambda path: type("Run", (), {"config": config}))
    monkeypatch.setattr(
        "softguard.recipes.runtime_costs.find_base", lambda model, path: Base(path or base, file_sha256(path or base), True)
    )
    good = write_export(tmp_path / "good", file_sha256(base))
    files, hashes = find_files(tmp_path, good, None)
    assert files == Files(str(base), base, good / "s.gguf", "p", "no")
    assert hashes["student"] == file_sha256(good / "s.gguf")
    for wrong in (tmp_path, write_export(tmp_path / "lost", file_sha256(base), file="x.gguf")):
        with pytest.raises(ConfigError, match="softguard export"):
            find_files(tmp_path, wrong, None)
    with pytest.raises(CompatibilityError, match="--base"):
        find_files(tmp_path, write_export(tmp_path / "other", "0" * 64), None)


@pytest.mark.slow
@has_server
def test_in_llama_server(tmp_path, monkeypatch):
    from tests.tiny_gguf import write_tiny_gguf
    from tests.unit.export.conftest import REFUSAL, load_apart, make_student
    from tests.unit.export.test_exports import no_runtime, one_of, to_gguf

    no_runtime(monkeypatch)
    base = write_tiny_gguf(tmp_path / "tiny.gguf")
    student = make_student(load_apart(base, tmp_path / "cache"))
    to_gguf(student, Base(base, file_sha256(base), True), tmp_path / "out")
    servers = []

    def start(model, slots, context):
        arguments = ("--cache-ram", "0")
        servers.append(LlamaServer(model, find_llama_server(), context=context, slots=slots, arguments=arguments))
        return servers[-1]

    few = RuntimeSettings(prompt_tokens=(24,), parallel=(1, 2), answer_tokens=(2, 6), speed_tokens=4, rounds=1, threads=1)
    files = Files("tiny", base, one_of(tmp_path / "out", ".gguf"), "Be safe.", REFUSAL)
    began = time.perf_counter()
    found = measure(files, few, start, silent)
    assert time.perf_counter() - began < 240
    assert found.runtime.startswith("llama-server ")
    assert len(servers) == 8
    assert all(server.resident_bytes == 0 for server in servers)  # gone
    for c in found.cells:
        assert c.first_token_ms.median > 0
        assert c.peak_memory_bytes > 2**20
    assert cell(found, "guarded", 24).peak_memory_bytes > 1.5 * cell(found, "base", 24).peak_memory_bytes
    assert cell(found, "student_cached", 24).read_tokens > cell(found, "base", 24).read_tokens
    assert answer(found, "guarded", 6).answer_ms.median > answer(found, "guarded", 2).answer_ms.median
    with start(files.student, 2, 512) as server:
        ids = server.prompt_ids(Conversation.from_prompt("the other"))
        made = server.timed(ids, 5, slot=1)
        assert len(made.ids) == len(made.arrivals) == 5
        assert list(made.arrivals) == sorted(made.arrivals)
        assert made.ids == server.timed(ids, 5, slot=0, cached=False).ids
