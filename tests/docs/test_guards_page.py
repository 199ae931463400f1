"""docs/guards.md against the code: every guard in its table, valid settings, commands that parse, the measured figures."""

import json
import re
import tomllib
from typing import get_type_hints

import pytest

from softguard.guards import GUARD_KINDS, GUARDS
from softguard.guards.family import FAMILIES
from softguard.guards.generative import GuardModel
from softguard.guards.qwen3_guard_stream import StreamModel
from tests.docs.test_docs import ROOT, parse

PAGE = (ROOT / "docs" / "guards.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| `")]
SETTINGS = [tomllib.loads(block) for block in re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)]
COMMANDS = [line for line in PAGE.splitlines() if line.startswith("softguard ")]


def named(row: str) -> list[str]:
    """Return the guards that a row's first cell names: "`a-2b`, `-8b`" are a-2b and a-8b."""
    first, *others = re.findall(r"`([^`]+)`", row.split("|")[1])
    return [first, *(first.rpartition("-")[0] + other for other in others)]


def test_every_guard_is_in_the_table_with_its_licence():
    table = {name: row for row in ROWS for name in named(row)}
    assert set(GUARDS) <= set(table)
    for name in GUARDS:
        model = GUARDS.get(name)
        if isinstance(model, GuardModel | StreamModel):
            assert "format only" in table[name]
            assert model.licence.split(",")[0] in table[name]
        if isinstance(model, GuardModel):
            by_weights = FAMILIES.get(model.family).render is None
            assert ("the weights' own template" in table[name]) == by_weights
        elif not isinstance(model, StreamModel):
            assert "format only" not in table[name]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s["kind"])
def test_settings_are_valid(settings):
    kind = settings.pop("kind")
    get_type_hints(GUARD_KINDS.get(kind))["config"].model_validate(settings)


def test_every_kind_has_an_example():
    kinds = re.findall(r'^kind = "(\w+)"', PAGE, re.MULTILINE)
    assert set(kinds) == set(GUARD_KINDS)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line):
    parse(line)


def test_figures_are_the_measured_ones():
    of = json.loads((ROOT / "benchmarks" / "guard" / "figures.json").read_text())["figures"]["mini"]
    beaver, gptfuzz, xstest = of["BeaverTails, half"], of["GPTFuzz"], of["XSTest safe, greedy answers"]
    assert f"AUC {beaver['auc']:.3f} on one half of BeaverTails, {gptfuzz['auc']:.3f} on GPTFuzz" in PAGE
    assert f"{xstest['false_positive_rate']:.1%}".replace("%", " %") in PAGE
    assert f"{beaver['latency_ms']:.0f} ms a pair" in PAGE


def test_links_lead_somewhere():
    paths = re.findall(r"`((?:docs|src|tests|benchmarks)/[\w./]+)`", PAGE)
    assert len(paths) >= 4
    assert [p for p in paths if not (ROOT / p).exists()] == []
