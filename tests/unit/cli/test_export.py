"""`softguard export`: what cannot be done is said before anything is loaded."""

import pytest
from typer.testing import CliRunner

from softguard.cli.main import app
from softguard.errors import ConfigError, RunError


def run(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)], catch_exceptions=False)


def test_an_unknown_format_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'gguf'"):
        run(tmp_path / "run", "--to", "ggu", "--out", tmp_path / "out")


def test_an_out_that_exists(tmp_path):
    with pytest.raises(ConfigError, match="choose another --out"):
        run(tmp_path / "run", "--out", tmp_path)


def test_no_run(tmp_path):
    with pytest.raises(RunError):
        run(tmp_path / "run", "--out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
