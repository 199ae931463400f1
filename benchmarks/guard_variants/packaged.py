"""Classifiers that a package of a registry holds with their weights, as they come: none was made to judge an answer.

pip install --no-deps --target SITE alt-profanity-check==1.9.1 prompt-guardrail==1.0.1 metatronnanoguard==0.1.0 tiktoken==0.14.0
PYTHONPATH=SITE python -m benchmarks.guard_variants --only packaged ...

These packages unpickle their own weights, which the product never does: run them where you would run any package that you
install.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module

import numpy as np
from numpy.typing import NDArray

from softguard.guards.measuring import LabelledPair

Scorer = Callable[[Sequence[LabelledPair]], NDArray[np.float64]]


def packaged() -> Iterator[tuple[str, Scorer]]:
    """Yield the classifiers that are installed, by package; each reads the answer alone."""
    warnings.filterwarnings("ignore")  # that another scikit-learn wrote the weights
    for name, make in (
        ("alt-profanity-check 1.9.1 (profanity)", _profanity),
        ("prompt-guardrail 1.0.1 (injection)", _guardrail),
        ("metatronnanoguard 0.1.0 (injection)", _nanoguard),
    ):
        try:
            yield name, make()
        except ImportError as error:
            print(f"left out: {name}: {error}")


def _profanity() -> Scorer:
    score = import_module("profanity_check").predict_prob
    return lambda pairs: np.asarray(score([p.response for p in pairs]), dtype=np.float64)


def _guardrail() -> Scorer:
    detect = import_module("guardify").detect

    def scores(pairs: Sequence[LabelledPair]) -> NDArray[np.float64]:
        found = [detect(p.response) for p in pairs]
        # Its score is of the label that it gives.
        return np.array([f["score"] if f["label"] == "injection" else 1.0 - f["score"] for f in found])

    return scores


def _nanoguard() -> Scorer:
    guard = import_module("nanoguard").NanoGuard(device="cpu")
    return lambda pairs: np.array([guard.scan(p.response).injection_score for p in pairs])
