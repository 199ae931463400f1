"""docs/serving.md against the code: its commands parse, its requests work, its tables name what there is."""

import re
import shutil
import subprocess
import sys

import pytest
import typer

from softguard.cli.main import app
from softguard.core import Reply, Verdict
from softguard.serving import Limits, Served
from softguard.serving.chat_request import _NEUTRAL, _WITHOUT_EFFECT, ChatRequest
from tests.docs.test_docs import ROOT, parse
from tests.unit.serving.scripted import FixedGuard, Scripted, serving

PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
COMMANDS = [line for line in PAGE.splitlines() if line.startswith("softguard ")]
CURL = re.findall(r"^curl (?:.*\\\n)*.*$", PAGE, re.MULTILINE)
SOURCE = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "src" / "softguard" / "serving").glob("*.py"))


@pytest.fixture(scope="module")
def url():
    names = ("base", "guarded", "student", "system_prompt")
    systems = {name: Scripted(name, reply=Reply("One two three", -1.0)) for name in names}
    with serving(Served(systems, FixedGuard(Verdict(p_safe=0.5))), Limits()) as address:
        yield address


def rows(title: str) -> list[list[str]]:
    """Return the cells of the table that stands under a head of this first cell."""
    table = re.search(rf"^\| {title} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert table
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()]


def test_there_is_something_to_check():
    assert len(COMMANDS) >= 4
    assert len(CURL) == 3


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line):
    parse(line)


@pytest.mark.parametrize("command", CURL)
def test_curl(command, url):
    if not shutil.which("curl"):
        pytest.skip("no curl on this machine")
    script = command.replace("http://127.0.0.1:8080", url)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert '"student"' in done.stdout
    assert '"error"' not in done.stdout
    assert ("[DONE]" in done.stdout) == ('"stream"' in command)


def test_the_clients_code_runs(url):
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code.replace("http://127.0.0.1:8080", url)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("One two three {'refused': False")
    assert done.stdout.endswith("One two three")


def test_tables_name_what_there_is(url):
    import httpx

    named = {name for row in rows("parameter") for name in re.findall(r"`(\w+)(?:\.\w+)?`", row[0])}
    assert set(ChatRequest.model_fields) <= named
    assert named <= set(ChatRequest.model_fields) | set(_NEUTRAL) | _WITHOUT_EFFECT | {"stop", "tools"}
    codes = {code for row in rows("status") for code in re.findall(r"`(\w+)`", row[1])}
    assert codes == set(re.findall(r"code(?:=| = )\"(\w+)\"", SOURCE)) | {"missing_required_parameter", "invalid_value"}
    asked = {"model": "student", "messages": [{"role": "user", "content": "hi"}]}
    given = httpx.post(f"{url}/v1/chat/completions", json=asked).json()["softguard"]
    assert {name for row in rows("field") for name in re.findall(r"`(\w+)`", row[0])} == set(given)


def test_defaults_are_written_once():
    command = typer.main.get_command(app).commands["serve"]
    defaults = {parameter.name: parameter.default for parameter in command.params}
    limits = Limits()
    for name in ("max_body", "max_tokens", "concurrency", "queue"):
        assert defaults[name] == getattr(limits, name)
    assert (defaults["host"], defaults["port"]) == ("127.0.0.1", 8080)
    assert f"slower than {limits.body_seconds:g} s, above `--max-body` ({limits.max_body // 1024} KiB)" in PAGE
    assert f"`--concurrency` ({limits.concurrency}) answers are made, `--queue` ({limits.queue}) wait" in PAGE
