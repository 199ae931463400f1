"""What a step needs beside the model does not grow with vocabulary x sequence, measured in processes of their own."""

from dataclasses import asdict

import pytest

from benchmarks.speed import memory
from benchmarks.speed.alone import in_a_process_of_its_own
from softguard.costs import ModelShape, Rows, step_bytes
from softguard.objectives.fused_head import CHUNK_BYTES, PART_LOGITS

TINY = {"model": memory.TINY, "dtype": "fp32", "batch": 8, "tokens": 96, "response": 48, "virtual": 20}


def alone(case):
    return in_a_process_of_its_own(memory.MODULE, asdict(case))


def above_loaded(contender, vocabulary):
    found = alone(memory.Case(contender, vocabulary=vocabulary, **TINY))
    if not found["reset"]:
        pytest.skip("this kernel cannot set the high-water mark back")
    return (found["peak"] - found["loaded"]) / 2**20


@pytest.mark.slow
def test_ours_does_not_grow_with_the_vocabulary_and_the_usual_loop_does():
    small, large = 8_192, 65_536
    logits = 8 * (96 + 20) * 4 * (large - small) / 2**20  # of all positions, in float32
    assert above_loaded("usual", large) - above_loaded("usual", small) > 2 * logits
    assert above_loaded("softguard", large) - above_loaded("softguard", small) < logits / 2


@pytest.mark.slow
@pytest.mark.parametrize(("tokens", "vocabulary"), [(96, 8_192), (384, 8_192), (96, 65_536)])
def test_a_step_takes_what_is_counted_for_it(tokens, vocabulary):
    case = memory.Case("softguard", vocabulary=vocabulary, **TINY | {"tokens": tokens})
    found = alone(case)
    if not found["reset"]:
        pytest.skip("this kernel cannot set the high-water mark back")
    shape = ModelShape.of(memory.load(case).network)
    counted = step_bytes(
        shape,
        Rows(8, tokens - 1, 20),
        4,
        learned=20 * shape.width,
        response_positions=8 * 48,
        chunk_bytes=CHUNK_BYTES,
        part_logits=PART_LOGITS,
        packed=True,
    )
    # PyTorch makes 25 to 70 MiB at its first step, whatever the model; in a plan `PROGRAM_BYTES` has it.
    peak = found["peak"] - found["loaded"]
    assert 0.8 * (counted + 25 * 2**20) < peak < 1.2 * (counted + 70 * 2**20)


def test_growth_is_from_the_smallest_to_the_largest():
    curve = [{"vocabulary": v, "tokens": t, "softguard_mib": v / 1024 + t} for v in memory.VOCABULARIES for t in memory.SEQUENCES]
    assert memory.growth(curve, "softguard") == {
        "vocabulary_x16": round((128 + 512) / (8 + 512), 2),
        "tokens_x8": round((128 + 512) / (128 + 64), 2),
    }


def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match="no-such-model"):
        alone(memory.Case("usual", "no-such-model", "fp32", 1, 8, 4, 2))


def test_a_plot_is_written(tmp_path):
    curve = [
        {"vocabulary": v, "tokens": t, "softguard_mib": 1.0 + t, "usual_mib": float(v)}
        for v in memory.VOCABULARIES
        for t in memory.SEQUENCES
    ]
    memory.plot(curve, tmp_path / "sub" / "memory.svg")
    drawn = (tmp_path / "sub" / "memory.svg").read_text()
    assert drawn.count(">softguard, ") == len(memory.VOCABULARIES)
    assert drawn.count(">usual loop, ") == len(memory.VOCABULARIES)
