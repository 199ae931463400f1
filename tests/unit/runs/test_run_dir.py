import json

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


def test_a_stranger_in_the_folder_is_not_listed(tmp_path):
    run = RunDir.create(tmp_path / "r", {"a": 1})
    run.write_text("report.html", "page")
    run.write_text("evaluations/test/base.jsonl", "{}\n")
    (run.path / "answers.jsonl").write_text("theirs")
    (run.path / "public.json").write_text("theirs")
    run.finish_stage("evaluate")
    listed = set(json.loads((run.path / "manifest.json").read_text())["files"])
    assert listed == {"config.toml", "report.html", "evaluations/test/base.jsonl"}
    (run.path / "answers.jsonl").write_text("theirs, rewritten")
    assert RunDir.open(run.path).stages() == ["evaluate"]


def test_a_manifest_that_lists_a_stranger_still_opens(tmp_path):
    run = RunDir.create(tmp_path / "r", {"a": 1})
    run.finish_stage("train")
    manifest = json.loads((run.path / "manifest.json").read_text())
    manifest["files"]["answers.jsonl"] = "0" * 64
    run.write_text("manifest.json", json.dumps(manifest))
    assert RunDir.open(run.path).stages() == ["train"]


def test_a_kill_after_a_rewrite_leaves_a_run_that_opens(tmp_path):
    run = RunDir.create(tmp_path / "r", {"a": 1})
    run.write_text("report.html", "page")
    run.finish_stage("report")
    run.write_text("report.html", "page")
    assert "report.html" in json.loads((run.path / "manifest.json").read_text())["files"]
    run.write_text("report.html", "another page")  # and here the process dies
    assert RunDir.open(run.path).stages() == ["report"]


def test_another_config_is_named_by_its_keys(tmp_path):
    RunDir.create(tmp_path / "r", {"a": {"b": 1, "c": 2}, "d": [1]})
    with pytest.raises(CompatibilityError, match=r"a\.b = 3, there 1; e = 5, there absent") as caught:
        RunDir.create(tmp_path / "r", {"a": {"b": 3, "c": 2}, "d": [1], "e": 5})
    assert "a.c" not in str(caught.value)


def test_a_check_leaves_nothing_and_a_file_is_no_folder(tmp_path):
    assert RunDir.check(tmp_path / "r", {"a": 1}).stages() == []
    assert not (tmp_path / "r").exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CompatibilityError, match="a file"):
        RunDir.create(tmp_path / "file", {})
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(RunError):
        RunDir.create(tmp_path / "r", {})
