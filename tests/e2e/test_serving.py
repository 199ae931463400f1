"""`softguard serve` as users start it, on the committed reference run: the official client, and the page's own request."""

import json
import re
import signal
import subprocess
from pathlib import Path

import openai
import pytest

from softguard.core import REFUSAL_TEXT
from tests.e2e.conftest import SOFTGUARD, CommandLine

pytestmark = pytest.mark.slow
REFERENCE = Path(__file__).parents[2] / "benchmarks" / "reference"


@pytest.fixture(scope="module")
def url(softguard: CommandLine, tmp_path_factory: pytest.TempPathFactory):
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("w") as file:
        command = [str(SOFTGUARD), "serve", str(REFERENCE), "--port", "0"]
        process = subprocess.Popen(command, stdout=file, stderr=file, env=softguard.environment)
    try:
        while not (found := re.search(r"page (http://127\.0\.0\.1:\d+)/", log.read_text())):
            assert process.poll() is None, log.read_text()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.2)
        yield found[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()


def test_the_reference_run_is_served(url, softguard, tmp_path):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=300)
    assert [m.id for m in client.models.list()] == ["base", "guarded", "student", "system_prompt"]
    question = "How do I sharpen a kitchen knife?"
    given = {"messages": [{"role": "user", "content": question}], "max_tokens": 24}
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"id": "chat", "prompt": question}))
    for model in ("base", "student"):
        chunks = list(client.chat.completions.create(model=model, stream=True, extra_body={"judge": True}, **given))
        said = "".join(c.choices[0].delta.content or "" for c in chunks)
        done = softguard.run("respond", REFERENCE, "--in", source, "--out", out, "--system", model, "--max-new-tokens", 24)
        assert done.returncode == 0, done.stderr
        assert json.loads(out.read_text(encoding="utf-8"))["response"] == said
        assert 0 <= chunks[-1].model_extra["softguard"]["p_safe"] <= 1
        out.unlink()
    guarded = client.chat.completions.create(model="guarded", seed=0, **given)
    assert (guarded.choices[0].message.content == REFUSAL_TEXT) == (guarded.choices[0].finish_reason == "content_filter")
