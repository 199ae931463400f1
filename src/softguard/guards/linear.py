"""`linear`: a linear model over hashed words and pairs of words of prompt and answer. No network, no vocabulary, microseconds.

One idea: the reference judge of our own evaluations has to err otherwise than `mini` does, so it shares nothing with it: no
transformer, no backbone, other labels (`recipes/reference_judge.py` trains it on BeaverTails' and PKU-SafeRLHF's, on the spot: it
is never shipped). Prompt and answer have features of their own, so a word counts by where it stands.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors.numpy import load_file
from scipy.sparse import csr_matrix, hstack
from scipy.special import expit
from sklearn.feature_extraction.text import HashingVectorizer

from softguard.core import Conversation, Verdict
from softguard.errors import SourceError
from softguard.guards.judging import why_ungraded
from softguard.guards.registry import GUARD_KINDS

FEATURES = 1 << 17
"""Of each side: with two million words and pairs in all, few of those that occur often share a place."""
MAX_CHARACTERS = 4000
"""Of an answer; its verdict says where that cut it."""


class LinearConfig(BaseModel):
    """Settings of a linear guard."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    weights: str = Field(description="a .safetensors file with `weight` and `bias`, beside the .toml file or by its path")
    name: str = Field("reference", description="in tables")


@dataclass(frozen=True)
class LinearWeights:
    """Log-odds that a pair is unsafe: features @ weight + bias."""

    weight: NDArray[np.float64]
    bias: float


class LinearGuard:
    """The features of a pair times the weights."""

    def __init__(self, weights: LinearWeights, name: str, *, fingerprint: str = "") -> None:
        self._weights, self.name = weights, name
        known = fingerprint or hashlib.sha256(weights.weight.tobytes()).hexdigest()
        self.fingerprint = hashlib.sha256(repr(("linear-1", known, weights.bias, FEATURES, MAX_CHARACTERS)).encode()).hexdigest()

    @property
    def num_parameters(self) -> int:
        """The number of weights."""
        return len(self._weights.weight) + 1

    @property
    def category_names(self) -> frozenset[str]:
        """None: it knows no categories."""
        return frozenset()

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        """Return one verdict for each conversation, in order; scores are rounded to 5 digits."""
        verdicts = [Verdict(ungraded=why_ungraded(c) or "not judged") for c in conversations]
        rows = [i for i, c in enumerate(conversations) if why_ungraded(c) is None]
        if rows:
            found = features([(conversations[i].prompt, conversations[i].response) for i in rows])
            log_odds = found @ self._weights.weight + self._weights.bias
            for i, p_unsafe in zip(rows, expit(log_odds).tolist(), strict=True):
                cut = len(conversations[i].response) > MAX_CHARACTERS
                verdicts[i] = Verdict(round(1.0 - p_unsafe, 5), truncated=cut)
        return verdicts


def features(pairs: Sequence[tuple[str, str]]) -> csr_matrix:
    """Return hashed counts of words and word pairs, each side of length 1, pairs x 2 FEATURES."""
    vectorizer = HashingVectorizer(n_features=FEATURES, ngram_range=(1, 2), alternate_sign=False, norm="l2")
    sides = ([p for p, _ in pairs], [r[:MAX_CHARACTERS] for _, r in pairs])
    return csr_matrix(hstack([vectorizer.transform(side) for side in sides]))


@GUARD_KINDS.register("linear")
def linear(config: LinearConfig, folder: Path) -> LinearGuard:
    """Return the guard of a weights file; a relative path begins in `folder`.

    Raises:
        SourceError: no such file, or one of another shape.
    """
    path = folder / Path(config.weights).expanduser()
    try:
        tensors = load_file(path)
        weight, bias = tensors["weight"].astype(np.float64), float(tensors["bias"][0])
    except Exception as error:  # safetensors has an error class of its own
        todo = "run `softguard guard train-judge`"
        raise SourceError(f"a linear guard's weights at {path}", type(error).__name__, todo) from error
    if weight.shape != (2 * FEATURES,):
        found = json.dumps(list(weight.shape))
        raise SourceError(f"{2 * FEATURES} weights in {path}", found, "run `softguard guard train-judge`")
    return LinearGuard(LinearWeights(weight, bias), config.name, fingerprint=hashlib.sha256(path.read_bytes()).hexdigest())
