"""What the documents say is so: commands and their options, targets, folders, files; and every module imports."""

import importlib
import pkgutil
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

import softguard
from softguard.cli.main import app
from softguard.guards import load_guard
from softguard.guards.family import FAMILIES
from softguard.recipes.config import load_config
from softguard.recipes.study_plan import load_study

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("softguard ")]
MAP = dict(re.findall(r"^\| `([^`]+)` \| (.+?) \|$", README, re.MULTILINE))
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
CONFIGS = sorted((ROOT / "configs").rglob("*.toml"))
STUDIES = [path for path in CONFIGS if "[[grid]]" in path.read_text(encoding="utf-8")]


def parse(line: str):
    """Return the command of a line, parsed by the real command line but not run, and what its comment says of it."""
    text, _, comment = line.partition("#")
    name, *arguments = shlex.split(text)
    command = typer.main.get_command(app)
    context = command.make_context(name, arguments[:1], resilient_parsing=True)
    while hasattr(command, "get_command"):
        found = command.get_command(context, arguments[0])
        assert found is not None, f"no command {arguments[0]!r}: {line}"
        command, arguments = found, arguments[1:]
    command.make_context(command.name, list(arguments), parent=context)  # raises on what it does not know or lacks
    return command, comment


def test_there_is_something_to_check():
    assert len(COMMANDS) >= 8
    assert len(MAP) >= 14
    assert CONFIGS
    assert EXAMPLES


@pytest.mark.parametrize("line", COMMANDS)
def test_readme_commands_parse(line):
    command, comment = parse(line)
    options = {option for parameter in command.params for option in parameter.opts}
    assert set(re.findall(r"--[a-z][a-z-]*", comment)) <= options
    for named in re.findall(r"configs/\S+", line):
        assert (ROOT / named).is_file(), named


@pytest.mark.parametrize("page", ["many-gpus", "studies"])
def test_commands_for_many_runs_and_machines_parse(page):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    lines = re.findall(r"^(softguard .*)$", text, re.MULTILINE)
    assert len(lines) >= 3
    for line in lines:
        parse(line)


@pytest.mark.parametrize("wrong", ["softguard distil --out x", "softguard respond run --into x", "softguard models lst"])
def test_a_wrong_command_is_noticed(wrong):
    with pytest.raises(Exception, match=r"No such|no command"):
        parse(wrong)


def test_inline_options_exist():
    command = typer.main.get_command(app)
    context = command.make_context("softguard", ["models"], resilient_parsing=True)
    known = {o for name in command.list_commands(context) for p in command.get_command(context, name).params for o in p.opts}
    prose = re.sub(r"^```\n.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`(--[a-z-]+)", prose)) <= known


def test_readme_make_targets_exist():
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    code = "\n".join([*BLOCKS, *re.findall(r"`([^`\n]+)`", README)])
    named = set(re.findall(r"\bmake ([a-z][\w-]*)", code))
    assert {"demo", "test"} <= named <= targets
    assert "\nmake e2e" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "e2e" in targets


def test_file_map_matches_the_tree():
    assert [place for place in MAP if not (ROOT / place).exists()] == []
    source = ROOT / "src" / "softguard"
    rooms = {f"src/softguard/{p.name}" for p in source.iterdir() if (p / "__init__.py").exists()}
    assert rooms == {place for place in MAP if place.startswith("src/softguard/")}
    assert {place: text for place, text in MAP.items() if len(text.split()) > 6} == {}
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_room_has_its_layer():
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"][0][
        "layers"
    ]
    named = {name.strip() for layer in layers for name in layer.split("|")}
    modules = {module.name for module in pkgutil.iter_modules(softguard.__path__)}
    assert modules == named


@pytest.mark.parametrize("path", [p for p in CONFIGS if p not in STUDIES], ids=lambda p: p.name)
def test_configs_parse(path):
    assert load_config(path) != load_config(None)  # it sets something


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.name)
def test_studies_parse(path):
    assert len(load_study(path)) > 1


def test_the_study_of_the_page_is_the_one_that_ships(tmp_path):
    (written,) = re.findall(r"^```toml\n(.*?)^```", (ROOT / "docs" / "studies.md").read_text(encoding="utf-8"), re.M | re.S)
    path = tmp_path / "study.toml"
    path.write_text(written.replace("demo.toml", str(ROOT / "configs" / "demo.toml")), encoding="utf-8")
    assert [c.name for c in load_study(path)] == [c.name for c in load_study(ROOT / "configs" / "study.toml")]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_commands_in_config_comments_parse(path):
    for line in re.findall(r"^# (softguard .*)$", path.read_text(encoding="utf-8"), re.MULTILINE):
        parse(line)


def test_every_module_imports_and_says_what_it_is():
    modules = [m.name for m in pkgutil.walk_packages(softguard.__path__, "softguard.")]
    assert len(modules) > 50
    assert [name for name in modules if not (importlib.import_module(name).__doc__ or "").strip()] == []


def test_decisions_and_changelog():
    decisions = sorted((ROOT / "docs" / "decisions").iterdir())
    assert [d.name for d in decisions if not re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", d.name)] == []
    assert [int(d.name[:4]) for d in decisions] == list(range(1, len(decisions) + 1))
    assert [d.name for d in decisions if not re.match(r"# \S", d.read_text(encoding="utf-8"))] == []
    assert (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").startswith("# Changelog\n")


def test_papers_name_files_that_exist():
    named = re.findall(r"`([\w/]+\.py)`", (ROOT / "docs" / "papers.md").read_text(encoding="utf-8"))
    assert named
    assert [name for name in named if not (ROOT / "src" / "softguard" / name).is_file()] == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_examples_compile(path):
    compile(path.read_text(encoding="utf-8"), str(path), "exec")


@pytest.mark.slow
def test_the_example_by_hand_learns():
    """On the embedded model, as its first lines say."""
    from softguard.models import load_model

    folder = load_model("smollm2-135m").network.config._name_or_path
    command = [sys.executable, str(ROOT / "examples" / "01_distil_by_hand.py"), folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    losses = [float(x) for x in re.findall(r"^step \d+: loss (\S+)$", done.stdout, re.MULTILINE)]
    assert len(losses) == 20
    assert losses[-1] < losses[0] / 2
    rows = re.findall(r"^teacher refuses (\S+), student (\S+): (.+)$", done.stdout, re.MULTILINE)
    assert [what for _, _, what in rows].count("harmful") == 2
    assert len(rows) == 4
    refused = {kind: [float(s) for _, s, what in rows if (what == "harmful") == kind] for kind in (True, False)}
    assert min(refused[True]) > max(refused[False])


def test_the_policy_of_the_docs_goes_with_the_guards_that_it_is_for_and_not_with_the_default():
    page = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^```toml\n(default = .*?)^```", page, re.MULTILINE | re.DOTALL)
    named = set(tomllib.loads(text)["categories"])
    for name in ("llama-guard-3-1b", "llama-guard-3", "llama-guard-4"):
        assert named <= set(FAMILIES.get(name).categories.names.values())
    assert load_guard("mini").category_names == {"harmful_prompt", "refusal"}
