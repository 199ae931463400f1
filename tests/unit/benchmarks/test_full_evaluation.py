"""The full evaluation on tiny runs: resumable, written after each phase, without a prompt of a public set."""

import json

import pytest

from benchmarks.evaluation import __main__ as full
from softguard.data import PromptRow
from softguard.evaluation.suites import SUITES
from softguard.recipes import distill as distilling
from softguard.recipes import evaluate as evaluating
from softguard.recipes import suites as measuring
from softguard.recipes.config import load_config
from softguard.recipes.suite_request import SuiteRequest
from softguard.runs import RunDir
from tests.fakes import KeywordGuard, tiny_model
from tests.unit.recipes.tiny_run import tiny_run

LABELS = ("harmful", "look_alike", "benign")
ROWS = [PromptRow(f"{label}{i}", f"{label} {i}", label, "softguard", topic=f"t{i}") for label in LABELS for i in range(3)]
PHASES = {
    "plain": SuiteRequest("malicious_instruct", judges="refusal"),
    "wrapped": SuiteRequest("malicious_instruct", wrappers="prefill", judges="refusal", limit=1),
}


def silent(stage, done, total, figures):
    return None


@pytest.fixture
def runs(tmp_path, monkeypatch):
    lm = tiny_model()
    monkeypatch.setenv("SOFTGUARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(distilling, "load_base", lambda config: lm)
    for room in (measuring, evaluating):
        monkeypatch.setattr(room, "load_guard", lambda name: KeywordGuard("zz 1"))
    monkeypatch.setattr(evaluating, "own_prompts", lambda split: ROWS)
    (tmp_path / "data/malicious_instruct").mkdir(parents=True)
    (tmp_path / "data/malicious_instruct/MaliciousInstruct.txt").write_text("zz alone 0\nzz alone 1")
    made = [tiny_run(tmp_path / "work" / name, lm, 1e9, "No.", seed) for seed, name in enumerate(full.RUNS)]
    for run in made:
        evaluating.evaluate(run, silent)
    return made, tmp_path


def test_every_phase_is_written_and_nothing_is_measured_twice(runs, monkeypatch):
    made, folder = runs
    work, out = folder / "work", folder / "out"
    full.measure(made, PHASES, folder / "data", silent, work, out)
    whole = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert [s["suite"] for s in whole["suites"].values()] == ["MaliciousInstruct", "MaliciousInstruct, in wrappers"]
    systems = [s["system"] for s in next(iter(whole["suites"].values()))["systems"]]
    assert systems == ["base", "guarded", "system_prompt", "student:tv_disp", "student:ours"]
    assert set(whole["seconds"]) == {f"{p}: {n}" for p in PHASES for n in full.RUNS}
    assert whole["phases"]["wrapped"]["limit"] == 1
    for name in ("summary.json", "tables.md", "report.html"):
        text = (out / name).read_text(encoding="utf-8")
        assert "zz alone" not in text
        assert "prefill" in text
    assert (out / "report.plots").is_dir()
    monkeypatch.setattr(measuring, "_answers", lambda *args: pytest.fail("answered again"))
    full.measure(made, PHASES, folder / "data", silent, work, out)
    assert json.loads((out / "summary.json").read_text(encoding="utf-8"))["suites"] == whole["suites"]


def test_trained_runs_are_taken_without_their_figures(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTGUARD_CACHE", str(tmp_path / "cache"))
    trained: list[object] = []
    monkeypatch.setattr(full, "evaluate", lambda *args: None)
    monkeypatch.setattr(full, "train_reference_judge", trained.append)
    made = full.prepared(tmp_path / "work", tmp_path, silent)
    assert [RunDir.open(run).stages() for run in made] == [["train"]] * 2
    assert not any((run / "evaluations").exists() for run in made)
    assert trained == [tmp_path]
    configs = [RunDir.open(run).config for run in made]
    for same in ("data", "evaluation"):
        assert configs[0][same] == configs[1][same]


def test_what_failed_has_spent_its_seconds(runs, monkeypatch):
    made, folder = runs
    monkeypatch.setattr(full, "evaluate_suites", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        full.measure(made, PHASES, folder / "data", silent, folder / "work", folder / "out")
    assert list(json.loads((folder / "work/seconds.json").read_text())) == ["plain: tv_disp"]


def test_the_phases_can_be_asked_and_both_runs_are_asked_alike():
    paper, ours = load_config(full.ROOT / "configs/tv_disp_paper.toml"), load_config(full.ROOT / "configs/reference.toml")
    assert paper.objective.kind == "tv_disp"
    for same in ("model", "data", "teacher", "evaluation"):  # else the two would not share a table
        assert getattr(paper, same) == getattr(ours, same)
    for request in full.PHASES.values():
        request.checked()
    assert {n for n in full.PHASES["plain"].suites.split(",")} <= set(SUITES)
    assert full.PHASES["white_box"].budget.steps < 500  # reduced, and called so


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, ""),
        ({"wrappers": ["prefill"]}, ", in wrappers"),
        ({"attacks": {"gcg": {}}, "drafts_for_divergence": 8}, ", attacked with its weights and with 8 drafts"),
    ],
)
def test_titles_say_how_it_was_asked(asked, said):
    assert full.asked_as(asked) == said
