"""docs/exports.md and the command's help name every format, and their commands parse."""

import re

import pytest
import typer

from softguard.cli.main import app
from softguard.export import EXPORTERS
from tests.docs.test_docs import ROOT, parse

PAGE = (ROOT / "docs" / "exports.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("line", re.findall(r"^softguard .*$", PAGE, re.MULTILINE))
def test_commands_parse(line):
    parse(line)


def test_every_format_is_named():
    command = typer.main.get_command(app)
    context = command.make_context("softguard", ["export"], resilient_parsing=True)
    options = {p.name: p for p in command.get_command(context, "export").params}
    for name in EXPORTERS:
        assert f"| `{name}` |" in PAGE
        assert name in options["to"].help
        assert EXPORTERS.get(name)().description
