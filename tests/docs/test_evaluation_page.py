"""docs/evaluation.md says what there is: every suite, wrapper and judge with its size and licence, and commands that parse."""

import re
from pathlib import Path

import pytest

from softguard.evaluation.attacks import ATTACKS
from softguard.evaluation.judges import JUDGES
from softguard.evaluation.suites import SUITES
from softguard.evaluation.wrappers import WRAPPERS
from tests.docs.test_docs import parse

TEXT = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
ROWS = [[c.strip() for c in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| `")]
COMMANDS = [line for line in TEXT.splitlines() if line.startswith("softguard ")]


def test_every_suite_is_there_with_its_size_and_licence():
    described = {row[0].strip("`"): row for row in ROWS if len(row) == 6}
    assert set(described) == set(SUITES)
    for name, row in described.items():
        suite = SUITES.get(name)
        assert int(row[2].replace(",", "")) == suite.size
        assert suite.licence in row[3]
        assert (row[1] == "both") == (len(suite.groups) == 2)
        assert row[1] == "both" or (row[1],) == suite.groups


def test_every_wrapper_is_there():
    described = {name for row in ROWS if len(row) == 4 for name in re.findall(r"`(\w+)`", row[0])}
    assert described == set(WRAPPERS)


def test_every_attack_is_there_with_its_reference_budget():
    described = {row[0].strip("`"): row for row in ROWS if len(row) == 5}
    assert set(described) == set(ATTACKS)
    for name, row in described.items():
        reference = ATTACKS.get(name).reference
        assert row[3].startswith(f"{reference.steps} steps, {reference.tokens} tokens")


def test_every_judge_is_there():
    described = {m for row in ROWS if len(row) == 3 for m in re.findall(r"^`(\w+)", row[0])}
    assert described == set(JUDGES)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line):
    parse(line)
