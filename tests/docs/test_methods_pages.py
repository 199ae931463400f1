"""docs/adapters.md and docs/objectives.md name every kind there is, and what they tell people to set can be set."""

import re
import shlex

import pytest

from softguard.adapters import ADAPTERS
from softguard.objectives import OBJECTIVES
from softguard.recipes.config import load_config
from tests.docs.test_docs import ROOT, parse

PAGES = {"adapters": ADAPTERS, "objectives": OBJECTIVES}
TEXTS = {name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in PAGES}
COMMANDS = re.findall(r"^softguard .*$", TEXTS["adapters"], re.MULTILINE)
SET = re.findall(r"`--set '([^`]+)'`", TEXTS["adapters"])


@pytest.mark.parametrize("page", PAGES)
def test_every_kind_is_in_the_table(page):
    first_cells = re.findall(r"^\| (`[^|]+) \|", TEXTS[page], re.MULTILINE)
    assert {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)} == set(PAGES[page])


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse_and_their_settings_load(line):
    parse(line)
    words = shlex.split(line)
    given = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    config = load_config(ROOT / words[words.index("--config") + 1], given)
    assert config.adapter.kind in line


def test_other_settings_load():
    assert [load_config(None, [one]).adapter.kind for one in SET] == ["soft_prompt", "kv_prefix"]
