"""Small models over frozen features: (a) an MLP over MiniLM's pair features, (d) a linear probe over one layer of the base."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.guard_variants.states import LAYERS, Features
from softguard.guards.mini_training import calibrate

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Fitted:
    """A fitted model with its calibration; `columns` are what it reads of the features, `chosen` says what validation chose."""

    model: Pipeline
    columns: NDArray[np.int64]
    temperature: float
    bias: float
    chosen: str

    def p_unsafe(self, x: Features) -> NDArray[np.float64]:
        """Return calibrated probabilities."""
        return 1.0 / (1.0 + np.exp(-(_log_odds(self.model, x[:, self.columns]) / self.temperature + self.bias)))

    @property
    def num_parameters(self) -> int:
        """Beside the frozen network."""
        last = self.model[-1]
        tensors = [*last.coefs_, *last.intercepts_] if isinstance(last, MLPClassifier) else [last.coef_, last.intercept_]
        return int(sum(np.size(t) for t in tensors))


def fit_mlp(x: Features, y: Labels, held_x: Features, held_y: Labels) -> Fitted:
    """Return the MLP whose penalty ranks the held-out pairs best."""
    models = {
        f"alpha {alpha:g}": make_pipeline(
            StandardScaler(), MLPClassifier((64,), alpha=alpha, max_iter=60, early_stopping=True, random_state=0)
        )
        for alpha in (1e-2, 1.0)
    }
    columns = np.arange(x.shape[1])
    return _best({name: (model, columns) for name, model in models.items()}, x, y, held_x, held_y)


def fit_probe(x: Features, y: Labels, held_x: Features, held_y: Labels) -> Fitted:
    """Return the linear probe whose layer and penalty rank the held-out pairs best."""
    width = x.shape[1] // len(LAYERS)
    candidates = {}
    for k, layer in enumerate(LAYERS):
        columns = np.arange(k * width, (k + 1) * width)
        for strength in (1e-4, 1e-3, 1e-2):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
            candidates[f"block {layer}, C {strength:g}"] = (model, columns)
    return _best(candidates, x, y, held_x, held_y)


def _best(
    candidates: dict[str, tuple[Pipeline, NDArray[np.int64]]], x: Features, y: Labels, held_x: Features, held_y: Labels
) -> Fitted:
    found = []
    for name, (model, columns) in candidates.items():
        log_odds = _log_odds(model.fit(x[:, columns], y), held_x[:, columns])
        temperature, bias = calibrate(log_odds.tolist(), [bool(v) for v in held_y])
        fitted = Fitted(model, columns, temperature, bias, name)
        found.append((-roc_auc_score(held_y, log_odds), log_loss(held_y, fitted.p_unsafe(held_x)), name, fitted))
    return min(found, key=lambda f: f[:3])[3]


def _log_odds(model: Pipeline, x: Features) -> NDArray[np.float64]:
    if isinstance(model[-1], MLPClassifier):
        p = np.clip(model.predict_proba(x)[:, 1], 1e-9, 1 - 1e-9)
        return np.asarray(np.log(p / (1 - p)))
    return np.asarray(model.decision_function(x))
