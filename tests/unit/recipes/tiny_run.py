"""A run directory as `distill` leaves it, with a soft prompt that nobody trained."""

import json
from pathlib import Path

from softguard.adapters import SoftPrompt
from softguard.models import LanguageModel
from softguard.recipes.config import resolved, validate_config
from softguard.runs import RunDir


def tiny_run(path: Path, lm: LanguageModel, threshold: float, refusal: str, seed: int = 0) -> Path:
    """Write a run of a student of `lm` with a given operating point, and return its path."""
    config = validate_config(
        {
            "adapter": {"num_virtual_tokens": 4, "initialisation": "random"},
            "evaluation": {"max_new_tokens": 4},
            "teacher": {"refusal_text": refusal, "guard": "keyword"},
            "training": {"seed": seed},
        }
    )
    run = RunDir.create(path, resolved(config))
    SoftPrompt.create(config.adapter, lm, seed).save(run.path / "adapter", lm)
    run.write_text("operating_point.json", json.dumps({"threshold": threshold}))
    run.write_text("provenance.json", "{}")
    run.finish_stage("train")
    return run.path
