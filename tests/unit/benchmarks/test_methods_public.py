"""The leaders on public prompts: figures are the library's, differences are told apart where they are there, and only there."""

import numpy as np
import pytest

from benchmarks.methods import public
from softguard.data import PromptRow
from softguard.errors import DataError
from softguard.evaluation import metrics
from softguard.evaluation.statistics import auc

ASKED = {
    key: public.Asked([PromptRow(f"{key[0]}-{key[1]}-{i}", "?", key[1], key[0], f"t{i % 9}") for i in range(60)])
    for key in {k for pair in public.PAIRS.values() for k in pair if k[0] != "jailbreakbench"}
}


def scores(lift, seed):
    rng = np.random.default_rng(seed)
    of = {" ".join(key): list(rng.normal(lift if key[1] == "harmful" else 0, 1, 60)) for key in ASKED}
    return {**of, "drift": [float("nan"), *rng.uniform(0.1, 0.2, 59)]}


def test_figures_are_those_of_the_library():
    one, other = scores(1.0, 0), scores(1.0, 1)
    found = public.figures({"a": [one], "b": [other]}, ASKED)
    up, down = (one[f"xstest {label}"] for label in ("harmful", "look_alike"))
    assert found["auc_xstest"]["a"]["value"] == pytest.approx(auc(up, down))
    limit = metrics.matched_threshold(down, public.MATCHED)
    assert found["refused_xstest"]["a"]["value"] == pytest.approx(np.mean(np.array(up) > limit))
    assert found["drift_alpaca"]["a"]["value"] == pytest.approx(np.nanmean(one["drift"]))
    assert not any("jailbreakbench" in name for name in found)


def test_a_lead_is_told_apart_where_there_is_one():
    strong, weak = [scores(2.5, s) for s in range(3)], [scores(0.3, s) for s in range(3, 6)]
    lead = public.figures({"weak": weak, "strong": strong}, ASKED)
    none = public.figures({"weak": weak, "again": [scores(0.3, s) for s in range(6, 9)]}, ASKED)
    for name in ("auc_xstest", "auc_beavertails", "refused_malicious_instruct"):
        assert lead[name]["difference"]["low"] > 0
        assert none[name]["difference"]["low"] < 0 < none[name]["difference"]["high"]
        assert lead[name]["strong"]["low"] < lead[name]["strong"]["value"] < lead[name]["strong"]["high"]


def test_it_compares_two_methods():
    with pytest.raises(DataError, match="two methods"):
        public.figures({"a": [scores(1, 0)]}, ASKED)
