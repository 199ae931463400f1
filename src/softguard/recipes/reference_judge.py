"""`guard train-judge`: the reference judge of our own evaluations: other architecture and other labels than `mini`'s.

Trained in seconds on PKU-SafeRLHF and half of BeaverTails (CC BY-NC: for whoever may use them, never shipped). The other half of
BeaverTails, by prompt, is never seen. Where it lies in the cache, `evaluate --suite` takes it as the judge that leads.
"""

import json
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import tomli_w
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression

from softguard.core.files import write_atomically
from softguard.errors import DataError
from softguard.evaluation.judges.reference import reference_judge_path
from softguard.guards.linear import LinearGuard, LinearWeights, features
from softguard.guards.measuring import LabelledPair, evaluate_guard
from softguard.guards.mini_training import calibrate
from softguard.recipes.guard_check import labelled_pairs

STRENGTHS = (1.0, 4.0, 16.0, 64.0)
"""Of the inverse penalty, of which the held-out pairs choose."""


def default_judges(training_guard: str) -> list[str]:
    """Return who judges where nobody is named: the reference judge where it was trained, beside the training guard."""
    path = reference_judge_path()
    known = path.exists() and Path(training_guard).expanduser().absolute() != path.absolute()
    return ["reference", training_guard] if known else [training_guard]


def is_test(pair: LabelledPair) -> bool:
    """Return whether BeaverTails' pair is of the half that nothing is trained on."""
    return crc32(pair.prompt.encode()) % 2 == 0


def train_reference_judge(data_dir: Path | None, out: Path | None = None) -> dict[str, Any]:
    """Train the reference judge, write it as `out` (a `.toml` file, by default where `evaluate` looks), and return its report.

    Raises:
        DataError: the public sets are not in `data_dir`.
    """
    path = out or reference_judge_path()
    if path.suffix != ".toml":
        raise DataError("a file that ends in .toml", str(path), "name it JUDGE.toml")
    beaver = labelled_pairs("beavertails", data_dir)
    test = [p for p in beaver if is_test(p)]
    unseen = {p.prompt for p in test}
    pool = [p for p in beaver + labelled_pairs("safe_rlhf", data_dir) if p.prompt not in unseen]
    held = [p for p in pool if crc32(p.prompt.encode()) % 100 < 12]
    train = [p for p in pool if crc32(p.prompt.encode()) % 100 >= 12]
    guard, strength = _fit(train, held)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_suffix(".safetensors")
    tensors = {"weight": guard.weight.astype(np.float32), "bias": np.array([guard.bias], dtype=np.float32)}
    write_atomically(file, lambda partial: save_file(tensors, partial))
    write_atomically(path, tomli_w.dumps({"kind": "linear", "weights": file.name, "name": "reference"}))
    measured = evaluate_guard(LinearGuard(guard, "reference"), test)
    report = {"pairs": len(train), "strength": strength, "BeaverTails, the other half": measured}
    write_atomically(path.with_suffix(".json"), json.dumps(report, indent=1) + "\n")
    return report


def _fit(train: list[LabelledPair], held: list[LabelledPair]) -> tuple[LinearWeights, float]:
    """Return the weights that rank the held-out pairs best, calibrated on them, and the strength that gave them."""
    x, held_x = (features([(p.prompt, p.response) for p in part]) for part in (train, held))
    y, held_y = ([p.unsafe for p in part] for part in (train, held))
    found = []
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, solver="liblinear", max_iter=200).fit(x, y)
        log_odds = np.asarray(model.decision_function(held_x))
        temperature, bias = calibrate(log_odds.tolist(), held_y)
        loss = float(np.mean(np.logaddexp(0.0, np.where(held_y, -1.0, 1.0) * (log_odds / temperature + bias))))
        weights = LinearWeights(model.coef_[0] / temperature, float(model.intercept_[0]) / temperature + bias)
        found.append((loss, strength, weights))
    _, strength, weights = min(found, key=lambda f: f[0])
    return weights, strength
