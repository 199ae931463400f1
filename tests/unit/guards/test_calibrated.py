"""A calibrated guard: the curve, the ranking that stays, and the guard it was fitted to."""

import pytest

from softguard.core import Conversation, Verdict
from softguard.errors import ConfigError
from softguard.guards.calibrated import CalibratedConfig, CalibratedGuard, calibrated_p_unsafe
from softguard.guards.registry import make_guard


class Fixed:
    name, fingerprint = "fixed", "fixed-1"

    def __init__(self, *verdicts):
        self._verdicts = verdicts

    def judge(self, conversations):
        return list(self._verdicts)


PAIRS = [Conversation.from_prompt("a").with_response("b")] * 4


def test_temperature_and_bias_by_hand():
    """p 0.8 has log-odds ln 4; halved and with ln 2 added that is ln 4 again; 0.5 becomes 2/3."""
    config = CalibratedConfig(guard="g", temperature=2.0, bias=0.6931472)
    assert calibrated_p_unsafe(0.8, config) == pytest.approx(0.8)
    assert calibrated_p_unsafe(0.5, config) == pytest.approx(2 / 3)
    assert 0 < calibrated_p_unsafe(0.0, config) < calibrated_p_unsafe(1.0, config) < 1


def test_isotonic_points_are_joined_and_held_at_the_ends():
    config = CalibratedConfig(guard="g", points=((0.2, 0.1), (0.6, 0.5)))
    assert [calibrated_p_unsafe(p, config) for p in (0.0, 0.2, 0.4, 0.6, 1.0)] == pytest.approx([0.1, 0.1, 0.3, 0.5, 0.5])


def test_verdicts_keep_their_rest_and_the_ungraded_stay_so():
    guard = Fixed(Verdict(0.2, {"x": 0.8}, truncated=True), Verdict(ungraded="gone"), Verdict(0.5), Verdict(0.9))
    found = CalibratedGuard(CalibratedConfig(guard="g", temperature=2.0), guard).judge(PAIRS)
    assert found[0].p_safe == pytest.approx(1 / 3, abs=1e-5)
    assert (found[0].categories, found[0].truncated) == ({"x": 0.8}, True)
    assert found[1] == Verdict(ungraded="gone")
    assert found[0].p_safe < found[2].p_safe < found[3].p_safe


def test_another_guard_than_the_curves_is_not_graded():
    config = CalibratedConfig(guard="g", fingerprint="another")
    assert all("calibrated for another guard" in v.ungraded for v in CalibratedGuard(config, Fixed()).judge(PAIRS))
    same = CalibratedGuard(config.model_copy(update={"fingerprint": "fixed-1"}), Fixed(Verdict(0.5)))
    assert same.judge(PAIRS[:1])[0].p_safe == pytest.approx(0.5)
    assert same.fingerprint != CalibratedGuard(CalibratedConfig(guard="g", temperature=2.0), Fixed()).fingerprint


FALLS = {"points": [[0.5, 0.5], [0.2, 0.6]]}
TWO = {"points": [[0.1, 0.2]], "bias": 1.0}


@pytest.mark.parametrize("settings", [FALLS, TWO, {"temperature": 0.0}, {"points": [[0, 2]]}])
def test_a_curve_that_falls_or_two_of_them_are_refused(settings):
    with pytest.raises(ConfigError, match="calibrated"):
        make_guard({"kind": "calibrated", "guard": "keyword", **settings})
