"""The committed reference run, exported through the real command line and verified in llama-server."""

import json
from pathlib import Path

import pytest

REFERENCE = Path(__file__).parents[2] / "benchmarks" / "reference"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_reference_run_as_gguf(softguard, tmp_path):
    out = tmp_path / "out"
    arguments = ("export", REFERENCE, "--to", "gguf", "--out", out, "--prompts", 30, "--positions", 2000)
    made = softguard.run(*arguments)
    assert made.returncode == 0, made.stderr
    found = json.loads((out / "verify.json").read_text())
    assert found["tokens"]["different"] == 0
    assert found["turns"]["virtual_tokens"] == [32, 32, 32, 32]
    assert found["names"]["guessed_names_parsed"] == 0
    assert found["speakability"]["largest_gap_nats"] < -5
    assert found["logits"]["correlation"] > 0.97
    assert found["baked_decision"]["agreement"] >= 0.85
    # The runtime goes on after the refusal's first token as the model does, not always to the end of the run's own text.
    assert (found["answers"]["agreement"] < 0.97) == any("agree" in w for w in found["warnings"])
    assert found["facts"]["growth"] <= 0.35
    again = softguard.run(*arguments)
    assert again.returncode == 2
    assert "choose another --out" in again.stderr
    peft = softguard.run("export", REFERENCE, "--to", "peft", "--out", tmp_path / "peft")
    assert peft.returncode == 2
    assert "in front" in peft.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
