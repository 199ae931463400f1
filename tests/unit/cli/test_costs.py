"""`softguard costs`: what it prints is what was counted, and what makes no sense together is refused."""

import csv
import io
import json

import pytest
from typer.testing import CliRunner

from softguard.cli.main import app
from softguard.costs import CostReport, PaperComparison
from softguard.errors import ConfigError

MODEL = ("costs", "--model-config", "llama-3.2-1b")
BASE = 2 * 973_078_528 + 4 * 512 * 2048 * 16 + 2 * 2048 * 128_256  # at 512 tokens, with the head


def run(*arguments):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False, env={"COLUMNS": "80"})


def test_json_csv_and_plot_hold_the_same_figures(tmp_path):
    files = ("--csv", str(tmp_path / "c.csv"), "--plot", str(tmp_path / "c.png"))
    report = CostReport.model_validate_json(run(*MODEL, "--json", "--virtual-tokens", "10", *files).stdout)
    assert report.system("base").at(512).total == BASE
    assert report.system("student_cached").parameters == 1_235_814_400 + 10 * 2048
    lines = list(csv.DictReader(io.StringIO((tmp_path / "c.csv").read_text())))
    assert len(lines) == 6 * 7  # systems by contexts
    line = next(x for x in lines if (x["system"], x["context"]) == ("base", "512"))
    assert float(line["total"]) == BASE
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"


def test_tables_fit_80_columns_and_say_how_was_counted():
    shown = run(*MODEL, "--weight-bits", "4.5").stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    assert "2.54" in shown
    assert "A multiply-add is 2" in shown
    assert "1,235,814,400" in shown
    assert f"{1_235_814_400 * 4.5 / 8 / 2**20:,.1f}" in shown


def test_the_papers_table_stands_beside_ours():
    shown = run("costs", "--paper").stdout
    assert "…" not in shown
    assert {"2.15", "2.01", "2.54", "8.68"} <= set(shown.split())
    found = PaperComparison.model_validate_json(run("costs", "--paper", "--json").stdout)
    assert [r.paper["student"] for r in found.rows] == [2.35, 3.10, 5.00, 6.80]
    assert json.loads(run("costs", "--paper", "--json").stdout)["finding"] == found.finding


@pytest.mark.parametrize(
    "wrong",
    [
        (),
        ("some/run", "--paper"),
        ("some/run", "--model-config", "llama-3.2-1b"),
        ("--paper", "--csv", "x.csv"),
        ("--model-config", "llama-9"),
        ("--model-config", "llama-3.2-1b", "--plot", "x.bmpx"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ConfigError):
        run("costs", *wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("some/run", "--runtime", "vllm", "--export", "x"), "--runtime llamacpp"),
        (("some/run", "--runtime", "llamacpp"), "softguard export RUN --to gguf"),
        (("--runtime", "llamacpp", "--export", "x"), "no RUN"),
        (("some/run", "--runtime", "llamacpp", "--paper", "--export", "x"), "RUN alone"),
        (("some/run", "--runtime", "llamacpp", "--export", "x", "--parallel", "1;4"), "with commas"),
        (("some/run", "--runtime", "llamacpp", "--export", "x", "--parallel", "0"), "parallel of one or more"),
        (("some/run", "--runtime", "llamacpp", "--export", "x", "--out", "."), "choose another --out"),
        (("some/run", "--export", "x"), "add --runtime"),
    ],
)
def test_options_of_a_runtime(wrong, said):
    with pytest.raises(ConfigError, match=said):
        run("costs", *wrong)
