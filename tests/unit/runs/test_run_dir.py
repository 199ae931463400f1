import pytest

from softguard.errors import CompatibilityError, RunError
from softguard.runs import RunDir


def test_manifest_lists_and_checks(tmp_path):
    run = RunDir.create(tmp_path / "r", {"a": {"b": 1}})
    run.write_text("metrics.jsonl", "{}\n")
    with pytest.raises(RunError, match="finished"):
        RunDir.open(run.path)
    run.finish_stage("train")
    assert RunDir.open(run.path).stages() == ["train"]
    run.finish_stage("evaluate")
    assert RunDir.open(run.path).config == {"a": {"b": 1}}
    (run.path / "metrics.jsonl").write_text("changed")
    with pytest.raises(RunError, match=r"metrics\.jsonl"):
        RunDir.open(run.path)


def test_a_run_is_bound_to_its_config(tmp_path):
    RunDir.create(tmp_path / "r", {"a": 1})
    assert RunDir.create(tmp_path / "r", {"a": 1}).config == {"a": 1}
    with pytest.raises(CompatibilityError, match="config"):
        RunDir.create(tmp_path / "r", {"a": 2})


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(CompatibilityError):
        RunDir.create(tmp_path, {})
    assert (tmp_path / "thesis.txt").read_text() == "mine"
