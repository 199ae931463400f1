"""Classifiers that a registry's package holds with its weights, as they come: each reads the answer alone.

None was made to judge an answer. The house rule that nothing unpickles holds for `src`: most of these packages unpickle their own
weights. How to install them is said in `benchmarks/guard_variants/__init__.py`.
"""

import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import distribution
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.guard_variants.variant import Scorer, Variant
from softguard.guards.measuring import LabelledPair

PackagedScorer = tuple[Scorer, int | None]


def _profanity() -> PackagedScorer:
    module = import_module("profanity_check")
    return lambda pairs: np.asarray(module.predict_prob([p.response for p in pairs]), dtype=np.float64), None


def _guardrail() -> PackagedScorer:
    guard = import_module("guardify").LogisticRegressionGuardrail()

    def score(text: str) -> float:
        found = guard.predict(text)
        return float(found["score"] if found["label"] == "injection" else 1.0 - found["score"])  # the score is of its label

    return _of_answers(score), None


def _nanoguard() -> PackagedScorer:
    guard = import_module("nanoguard").NanoGuard(device="cpu")
    return _of_answers(lambda text: guard.scan(text).injection_score), sum(p.numel() for p in guard.model.parameters())


def _sonar() -> PackagedScorer:
    sonar = import_module("hatesonar").Sonar()

    def score(text: str) -> float:
        return 1.0 - {c["class_name"]: float(c["confidence"]) for c in sonar.ping(text)["classes"]}["neither"]

    return _of_answers(score), None


PACKAGED: dict[str, tuple[str, Callable[[], PackagedScorer]]] = {
    "alt-profanity-check": ("profanity", _profanity),
    "prompt-guardrail": ("prompt injection", _guardrail),
    "metatronnanoguard": ("prompt injection", _nanoguard),
    "hatesonar": ("hate and offence", _sonar),
}
"""What each was made to find, and how it is loaded."""


def packaged(name: str) -> Variant:
    """Return the classifier of a package; whatever the package raises comes through."""
    with warnings.catch_warnings(action="ignore"):  # that another scikit-learn wrote the weights
        finds, make = PACKAGED[name]
        score, parameters = make()
    package: Any = distribution(name)
    megabytes = sum(f.locate().stat().st_size for f in package.files or [] if f.locate().is_file()) / 1e6
    facts = {"version": package.version, "finds": finds}
    return Variant(score, lambda pair: score([pair]), parameters, megabytes, facts)


def _of_answers(score: Callable[[str], float]) -> Scorer:
    def scores(pairs: Sequence[LabelledPair]) -> NDArray[np.float64]:
        return np.array([score(p.response) for p in pairs], dtype=np.float64)

    return scores
