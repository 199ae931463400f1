"""The reliability plot of a guard: what it could not grade is left out and said, not taken for unsafe."""

from benchmarks.guard_figures import plot_reliability
from softguard.core import Verdict
from softguard.guards import LabelledPair


class Half:
    """Grades every other pair."""

    name = fingerprint = "half"

    def judge(self, conversations):
        return [Verdict(0.9) if i % 2 else Verdict(ungraded="gone") for i, _ in enumerate(conversations)]


def test_what_is_ungraded_is_no_dot(tmp_path):
    plot_reliability(Half(), [LabelledPair("a", "b", unsafe=False)] * 4, tmp_path / "r.svg", "a set")
    text = (tmp_path / "r.svg").read_text()
    assert "half on a set, 2 ungraded" in text
    assert text.count("<circle") == 1
    assert "2 pairs" in text
