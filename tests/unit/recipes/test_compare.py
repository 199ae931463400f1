"""Runs side by side: what they share is shown once, what they do not share is said."""

import json

import pytest

from softguard.errors import ConfigError, RunError
from softguard.evaluation.results import EvaluationSummary, MetricValue, SystemResult
from softguard.recipes.compare import compare_runs, study_rows
from softguard.recipes.config import load_config, resolved
from softguard.runs import RunDir


@pytest.fixture
def make(tmp_path):
    def made(name, *assignments, n=60, model="m1"):
        run = RunDir.create(tmp_path / name, resolved(load_config(None, assignments)))
        systems = [
            SystemResult(system=s, metrics={"refusal_rate": MetricValue(value=0.5, n=n)}, label=s.capitalize())
            for s in ("base", "guarded", "student")
        ]
        provenance = {"model": {"fingerprint": model}, "guard": {"fingerprint": "g1"}}
        summary = EvaluationSummary(suite="test", systems=systems, provenance=provenance)
        run.write_text("evaluations/test/summary.json", summary.model_dump_json())
        run.finish_stage("evaluate")
        return run.path

    return made


def test_what_runs_share_is_shown_once(make):
    summary = compare_runs([make("a"), make("b", "training.steps=7")])
    assert [s.system for s in summary.systems] == ["base", "guarded", "student:a", "student:b"]
    assert summary.limits == []


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"assignments": ["evaluation.prompts_per_label=9"]}, "evaluation.prompts_per_label (9, not 60)"),
        ({"assignments": ["model.name=other"]}, "model.name ('other', not 'smollm2-135m')"),
        ({"n": 59}, "number of prompts"),
        ({"model": "m2"}, "weights of the base model"),
    ],
)
def test_what_runs_do_not_share_is_said(make, other, named):
    summary = compare_runs([make("a"), make("b", *other.pop("assignments", ()), **other)])
    assert [s.system for s in summary.systems] == ["base", "guarded", "student:a", "base:b", "guarded:b", "student:b"]
    assert len(summary.limits) == 1
    assert named in summary.limits[0]
    assert summary.limits[0].startswith("b was not measured as a was: ")


def test_runs_of_one_name_are_told_apart(make, tmp_path):
    pair = [make("x/run"), make("y/run", "training.steps=7")]
    names = [s.system for s in compare_runs([*pair, pair[0]]).systems]
    assert names == ["base", "guarded", f"student:{pair[0]}", f"student:{pair[1]}"]


def test_a_run_without_an_evaluation_or_with_a_broken_one(make):
    path = make("a")
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "stages": ["train"]}))
    with pytest.raises(RunError, match="softguard evaluate"):
        compare_runs([path])


def test_studies_are_told_from_runs_and_from_each_other(make, tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"cell": ["x"], "status": ["done"]}), tmp_path / name / "results.parquet")
    assert study_rows([make("run")]) is None
    assert study_rows([tmp_path / "one"]) == [{"cell": "x", "status": "done"}]
    both = study_rows([tmp_path / "one", tmp_path / "two" / "results.parquet"])
    assert [r["study.name"] for r in both] == ["one", "two"]
    with pytest.raises(ConfigError, match="compare them apart"):
        study_rows([tmp_path / "one", make("other")])
