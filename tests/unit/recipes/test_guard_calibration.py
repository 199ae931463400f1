"""`guard calibrate` on a guard that is known to be too sure of itself: what is fitted, what is measured, what is written."""

import json
import math
import random
import tomllib

import pytest

from softguard.core import Verdict
from softguard.errors import ConfigError, DataError
from softguard.guards.calibrated import CalibratedConfig, CalibratedGuard
from softguard.recipes.guard_calibration import calibrate_guard


class TooSure:
    """Says in each prompt's number the log-odds times three: it ranks well and is too sure."""

    name, fingerprint = "too sure", "too-sure-1"

    def judge(self, conversations):
        return [Verdict(round(1 / (1 + math.exp(3 * float(c.prompt.split()[1]))), 5)) for c in conversations]


@pytest.fixture
def labels(tmp_path):
    rng = random.Random(0)
    rows = []
    for i in range(8000):
        log_odds = rng.gauss(0, 1)
        unsafe = rng.random() < 1 / (1 + math.exp(-log_odds))
        rows.append({"prompt": f"{i} {log_odds}", "response": "r", "unsafe": unsafe})
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in rows))
    return path


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_it_is_less_sure_afterwards_and_ranks_the_same(tmp_path, labels, method):
    out = tmp_path / "made" / "g.toml"
    found = calibrate_guard(TooSure(), "keyword", str(labels), out, method=method)
    assert found.before["ece"] > 0.1
    assert found.after["ece"] < 0.05
    assert found.after["auc"] == pytest.approx(found.before["auc"], abs=0.01)
    if method == "temperature":
        assert found.config.temperature == pytest.approx(3, rel=0.2)
        assert found.config.bias == pytest.approx(0, abs=0.2)
    settings = tomllib.loads(out.read_text())
    assert settings.pop("kind") == "calibrated"
    read = CalibratedConfig.model_validate(settings)
    assert read == found.config
    assert CalibratedGuard(read, TooSure()).judge([]) == []
    assert all(p.read_text().startswith("<svg") for p in found.plots)


def test_too_few_labels_or_a_wrong_name_are_errors(tmp_path, labels):
    with pytest.raises(DataError, match="both classes in each half"):
        calibrate_guard(TooSure(), "g", str(labels), tmp_path / "g.toml", limit=100)
    with pytest.raises(ConfigError, match=r"\.toml"):
        calibrate_guard(TooSure(), "g", str(labels), tmp_path / "g.json")
