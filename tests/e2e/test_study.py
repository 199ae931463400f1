"""A study on the embedded model as Ray tasks: two cells at a time share one teacher, and a second call runs nothing."""

import pytest

from softguard.recipes.study import read_table
from tests.e2e.conftest import REDUCED

pytestmark = pytest.mark.slow


def test_cells_run_side_by_side_and_once(softguard, tmp_path):
    grid = tmp_path / "study.toml"
    text = '"objective.kind" = ["tv_disp", "decision_split"]\n"training.learning_rate" = [0.01]\n'
    few = '[settings]\n"evaluation.calibration_prompts" = 12'
    grid.write_text(f'base = "{REDUCED}"\n{few}\n[[grid]]\n{text}', encoding="utf-8")
    out = tmp_path / "out"
    done = softguard.run("study", grid, "--out", out, "--workers", 2, "--validation-only")
    rows = read_table(out / "results.parquet")
    assert [r["status"] for r in rows] == ["done", "done"], (done.stderr, rows)
    assert done.returncode == 0
    before = {p: p.stat().st_mtime_ns for p in (out / "cells").rglob("manifest.json")}
    softguard.run("study", grid, "--out", out, "--validation-only")
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert (out / "study.html").is_file()
