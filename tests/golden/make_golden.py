"""Makes `run_v1`: a run directory of schema 1 as small as one can be, with numbers that a formula gives.

Run: python -m tests.golden.make_golden, from the root, and only where schema 1 was never released with what changed: a
released artefact stays as it is, and a new schema gets a folder of its own.
"""

import json
import shutil
from pathlib import Path

import torch

from softguard.adapters import SoftPrompt
from softguard.evaluation.metrics import exact_value
from softguard.evaluation.results import EvaluationSummary, MetricValue, SampleTriple, SystemResult
from softguard.recipes.config import resolved, validate_config
from softguard.runs import RunDir
from tests.fakes import tiny_model

RUN_V1 = Path(__file__).with_name("run_v1")
LAYOUT = [{"slot": "front", "count": 3}, {"slot": "after_user", "count": 1}]
THRESHOLD = -3.5


def weight() -> torch.Tensor:
    """W, 4 x 32: sixty-fourths from -1 to just below 1, so that every format holds them exactly."""
    return torch.arange(-64, 64).reshape(4, 32) / 64


def summary() -> EvaluationSummary:
    """An evaluation with everything in it that a summary can hold and a reader has to find again."""
    rate = MetricValue(value=0.75, low=0.5, high=0.875, n=8, ungraded=1, lower_bound=0.625, upper_bound=0.75)
    added = exact_value(128.0, "count")
    systems = [
        SystemResult(system="base", label="Base model", metrics={"refusal_rate": MetricValue(value=None, n=0)}),
        SystemResult(system="student", label="Student", metrics={"refusal_rate": rate, "added_parameters": added}),
    ]
    sample = SampleTriple(prompt="Name a river.", label="benign", redacted=False, answers={"base": "The Rhine."})
    withheld = SampleTriple(prompt="x" * 40, label="harmful", answers={"base": "y" * 20})
    return EvaluationSummary(suite="golden", systems=systems, samples=[sample, withheld], threshold=THRESHOLD, limits=["All."])


def make(folder: Path) -> RunDir:
    """Write the run into a new folder and return it."""
    lm = tiny_model("llama")
    config = validate_config({"model": {"name": "tiny-llama"}, "adapter": {"num_virtual_tokens": 4, "placement": LAYOUT}})
    run = RunDir.create(folder, resolved(config))
    SoftPrompt(config.adapter, weight(), lm.fingerprint).save(folder / "adapter", lm)
    run.write_text("operating_point.json", json.dumps({"threshold": THRESHOLD}, indent=2) + "\n")
    run.write_text("metrics.jsonl", '{"step": 1, "seconds": 0.5, "loss": 2.0}\n')
    run.finish_stage("train")
    run.write_text("evaluations/test/summary.json", summary().model_dump_json(indent=1))
    run.finish_stage("evaluate")
    return run


if __name__ == "__main__":
    shutil.rmtree(RUN_V1, ignore_errors=True)
    make(RUN_V1)
