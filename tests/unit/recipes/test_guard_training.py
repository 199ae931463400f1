"""`guard train` on tiny models: answers that survive a kill, and what is said of the guard that they train."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from softguard.data import load_prompts
from softguard.data.licences import LICENCES
from softguard.guards import MiniTraining
from softguard.guards.mini import MiniGuard
from softguard.guards.mini_pairs import answer_requests
from softguard.models import sample
from softguard.recipes import guard_training
from softguard.recipes.guard_training import ANSWERED, LIMITS, sample_answers, train_embedded_guard, written_pairs
from tests.fakes import tiny_model
from tests.unit.guards.tiny_backbone import write_tiny_backbone

BATCH, WRITTEN = 4, 50
PERMISSIVE = {"Apache-2.0", "MIT"}


class Sampler:
    """`sample`, with a list of what it was asked; after so many calls the process is killed in it."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.calls_left = 10**6

    def __call__(self, lm, prompts, keys, **settings):
        if not self.calls_left:
            raise KeyboardInterrupt
        self.calls_left -= 1
        self.keys += keys
        return sample(lm, prompts, keys, **settings)


@pytest.fixture
def sampler(monkeypatch: pytest.MonkeyPatch) -> Sampler:
    found = Sampler()
    monkeypatch.setattr(guard_training, "sample", found)
    monkeypatch.setattr(guard_training, "load_model", lambda name: tiny_model())
    monkeypatch.setattr(guard_training, "BATCH", BATCH)
    return found


@pytest.fixture(scope="module")
def requests():
    found = answer_requests([r for r in load_prompts("softguard") if r.label == "harmful"][:8])
    assert len(found) > 2 * BATCH
    return found


def silent(done: int, total: int) -> None:
    return None


def the_file(folder: Path) -> Path:
    (found,) = folder.glob("answers-*.jsonl")
    return found


def test_every_request_is_answered_once_in_order(tmp_path, sampler, requests):
    told: list[tuple[int, int]] = []
    answers = sample_answers(requests, tmp_path / "answers.jsonl", "tiny", 0, lambda done, total: told.append((done, total)))
    assert [(a.prompt, a.style) for a in answers] == [(r.prompt, r.style) for r in requests]
    assert all(a.response.startswith(r.opening.strip()) for a, r in zip(answers, requests, strict=True))
    assert [json.loads(x) for x in the_file(tmp_path).read_text().splitlines()] == [vars(a) for a in answers]
    assert told == [(min(k + BATCH, len(requests)), len(requests)) for k in range(0, len(requests), BATCH)]
    assert sample_answers(requests, tmp_path / "answers.jsonl", "tiny", 0, silent) == answers
    assert len(sampler.keys) == len(requests)  # the second call asked nothing


def test_a_request_that_is_made_twice_is_answered_once(tmp_path, sampler, requests):
    answers = sample_answers([*requests[:2], requests[0]], tmp_path / "answers.jsonl", "tiny", 0, silent)
    assert answers[2] == answers[0]
    assert len(sampler.keys) == 2


def test_a_kill_loses_one_batch_and_the_next_start_gives_the_same_file(tmp_path, sampler, requests):
    sample_answers(requests, tmp_path / "whole" / "answers.jsonl", "tiny", 0, silent)
    whole, sampler.keys = the_file(tmp_path / "whole").read_text(), []
    sampler.calls_left = 2
    with pytest.raises(KeyboardInterrupt):
        sample_answers(requests, tmp_path / "killed" / "answers.jsonl", "tiny", 0, silent)
    killed = the_file(tmp_path / "killed")
    assert killed.read_text() == "".join(whole.splitlines(keepends=True)[: 2 * BATCH])
    sampler.calls_left = 10**6
    sample_answers(requests, tmp_path / "killed" / "answers.jsonl", "tiny", 0, silent)
    assert killed.read_text() == whole
    assert set(Counter(sampler.keys).values()) == {1}


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param(lambda line: line[: len(line) // 2], id="within the text"),
        pytest.param(lambda line: line[:-1], id="before the end of the line"),
        pytest.param(lambda line: '{"prompt": "a {b}', id="after a brace"),
    ],
)
def test_a_line_that_a_kill_left_half_written_is_made_again(tmp_path, sampler, requests, cut: Callable[[str], str]):
    sample_answers(requests, tmp_path / "answers.jsonl", "tiny", 0, silent)
    path = the_file(tmp_path)
    whole, sampler.keys = path.read_text(), []
    lines = whole.splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + cut(lines[-1]))
    sample_answers(requests, tmp_path / "answers.jsonl", "tiny", 0, silent)
    assert path.read_text() == whole
    assert sampler.keys == [f"{requests[-1].style}:{requests[-1].prompt}"]


def test_another_model_or_seed_has_answers_of_its_own(tmp_path, sampler, requests):
    for model, seed in (("tiny", 0), ("tiny", 1), ("other", 0)):
        sample_answers(requests[:2], tmp_path / "answers.jsonl", model, seed, silent)
    texts = [path.read_text() for path in tmp_path.glob("answers-*.jsonl")]
    assert len(texts) == 3
    assert len(set(texts)) == 2  # the fake gives both names one model


@pytest.fixture
def small(sampler: Sampler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sampler:
    """The whole recipe with few rows of each set, on a tiny backbone. Public sets are ours under their names."""
    own = load_prompts("softguard")

    def rows(name: str, data_dir: Path | None):
        return [replace(r, source=name, prompt=f"{name}: {r.prompt}") for r in own]

    backbone = str(write_tiny_backbone(tmp_path / "backbone"))
    tiny = partial(MiniTraining, epochs=1, batch_size=16, rank=2, hidden=8, max_tokens=32, backbone=backbone)
    monkeypatch.setattr(guard_training, "load_prompts", rows)
    monkeypatch.setattr(guard_training, "MiniTraining", tiny)
    monkeypatch.setattr(guard_training, "LIMITS", dict.fromkeys(LIMITS, 4))
    monkeypatch.setattr(guard_training, "ANSWERED", dict.fromkeys(ANSWERED, 2))
    monkeypatch.setattr(guard_training, "written_pairs", lambda long=False: written_pairs(long=long)[::20][:WRITTEN])
    return sampler


def test_the_report_says_what_the_guard_was_made_of(tmp_path, small):
    stages: dict[str, tuple[int, int]] = {}
    report = train_embedded_guard(
        tmp_path / "out", None, seed=3, report=lambda stage, done, total, _: stages.update({stage: (done, total)})
    )
    assert report["prompts"] == {name: 3 * 4 for name in LIMITS} | {"written": WRITTEN, "long": WRITTEN}
    assert report["settings"]["seed"] == 3
    assert sum(report["train_pairs"].values()) > report["validation_pairs"] > 0
    assert {"written", "written_long"} <= {kind.split(":")[1] for kind in report["train_pairs"]}
    assert {"auc", "ece", "f1"} <= set(report["validation"])
    assert "latency_ms" not in report["validation"]  # of this machine at this moment, so no part of a card
    assert json.loads((tmp_path / "out" / "mini.json").read_text())["report"] == report
    assert set(stages) == {"answers", "guard training"}
    assert all(done == total for done, total in stages.values())
    assert stages["answers"][1] == len(small.keys) >= 2 * 3 * len(LIMITS)


def test_the_same_seed_gives_the_same_weights_and_another_one_others(tmp_path, small):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_embedded_guard(tmp_path / name, None, seed=seed)
    a, b, c = ((tmp_path / name / "mini.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c
    assert MiniGuard(tmp_path / "a", backbone=tmp_path / "backbone").fingerprint


def test_what_is_trained_on_is_permissively_licensed(tmp_path, small, monkeypatch):
    given = {}

    def spy(out, prompts, answers, written, *rest):
        given.update(prompts=prompts, answers=answers)
        return {}

    monkeypatch.setattr(guard_training, "train_mini", spy)
    train_embedded_guard(tmp_path / "out", None)
    assert {r.source for r in given["prompts"]} == set(LIMITS) == set(ANSWERED)
    assert {LICENCES[name] for name in (*LIMITS, "softguard_pairs")} <= PERMISSIVE
    assert {a.prompt for a in given["answers"]} <= {r.prompt for r in given["prompts"]}
    assert not {r.split for r in given["prompts"]} & {"test"}
