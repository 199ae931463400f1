"""`softguard study`: where it writes, and what it does where a source is out of reach."""

from pathlib import Path

import pytest
import typer

from softguard.cli import study as command
from softguard.errors import CompatibilityError, SourceError
from softguard.recipes import study as studying
from softguard.recipes.study import StudyResult


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """The folders that studies were asked to run in; nothing is trained."""
    folders = []

    def run_study(cells, out, data_dir, report, **options):
        folders.append(out)
        out.mkdir(parents=True)
        return StudyResult(cells, cells[:1], studying.write_table(cells, out))

    monkeypatch.setattr(studying, "run_study", run_study)
    monkeypatch.setattr(command, "fetch_missing", lambda stages, **names: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.toml").write_text('[[grid]]\n"model.name" = ["smollm2-135m", "gemma3-270m"]\n')
    return folders


def test_a_study_has_the_folder_of_its_name(asked):
    for out_dir in (None, Path("elsewhere")):
        with pytest.raises(typer.Exit):
            command.study(Path("grid.toml"), out_dir)
    assert asked == [Path("runs/grid"), Path("elsewhere")]


def test_a_source_out_of_reach_is_left_to_its_cells(asked, monkeypatch, capsys):
    def fetch(stages, model, guard):
        if model == "smollm2-135m":
            raise SourceError("a server", "none", "go online")

    monkeypatch.setattr(command, "fetch_missing", fetch)
    with pytest.raises(typer.Exit):
        command.study(Path("grid.toml"))
    assert len(asked) == 1
    assert "go online" in capsys.readouterr().err


def test_a_cell_that_cannot_be_is_said_by_a_dry_run(asked, tmp_path):
    grid = '[[grid]]\n"objective.kind" = ["tv_disp", "ppo"]\n"teacher.policy" = ["policy.toml"]\n'
    (tmp_path / "grid.toml").write_text(grid)
    for dry_run in (True, False):
        with pytest.raises(CompatibilityError, match=r"found ppo.*leave teacher\.policy out"):
            command.study(Path("grid.toml"), dry_run=dry_run)
    assert asked == []
