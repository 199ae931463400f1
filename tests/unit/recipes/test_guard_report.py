"""The page about verdicts: its figures are the verdicts', its dot lies where it belongs, and no text of a pair is on it."""

import json

import numpy as np
import pytest

from softguard.core import Verdict
from softguard.errors import DataError
from softguard.guards import LabelledPair
from softguard.guards.measuring import roc_svg
from softguard.recipes.guard_report import evaluate_with_page, labelled_lines, write_guard_page


def judged(tmp_path, rows):
    path = tmp_path / "verdicts.jsonl"
    path.write_text("\n".join(json.dumps({"id": i, "prompt": "SECRET", "response": "SECRET", **r}) for i, r in enumerate(rows)))
    return path


def test_figures_and_plots_of_labelled_lines(tmp_path):
    rows = [{"p_safe": p, "unsafe": u} for p, u in ((0.9, False), (0.2, True), (0.4, False), (0.6, True))]
    rows += [{"ungraded": "gone", "unsafe": True}, {"p_safe": 0.5}]
    found = labelled_lines(judged(tmp_path, rows))
    assert (found.ungraded, found.unlabelled) == (1, 1)
    values = write_guard_page(found, "a <guard>", tmp_path / "page.html")
    assert (values["pairs"], values["auc"]) == (4, 0.75)
    assert (values["true_positive_rate"], values["false_positive_rate"]) == (0.5, 0.5)
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 2
    assert "AUC 0.750" in page
    assert "a &lt;guard&gt;" in page
    assert "SECRET" not in page
    assert "1 lines have no label" in page


def test_one_class_has_no_roc(tmp_path):
    found = labelled_lines(judged(tmp_path, [{"p_safe": 0.9, "unsafe": False}] * 3))
    write_guard_page(found, "g", tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().count("<svg") == 1
    with pytest.raises(DataError, match="one class"):
        roc_svg(np.array([0.1]), np.array([0]), "g")


def test_lines_without_labels_are_an_error(tmp_path):
    with pytest.raises(DataError, match="none of 1"):
        labelled_lines(judged(tmp_path, [{"p_safe": 0.9}]))


def test_the_dot_is_at_one_half():
    """Three unsafe, two flagged; four safe, one flagged: the dot is at (1/4, 2/3)."""
    p, labels = np.array([0.9, 0.8, 0.3, 0.7, 0.1, 0.2, 0.4]), np.array([1, 1, 1, 0, 0, 0, 0])
    assert 'cx="100.0" cy="110.0"' in roc_svg(p, labels, "g")


def test_a_guard_is_asked_once(tmp_path):
    class Counts:
        name = fingerprint = "counts"
        asked = 0

        def judge(self, conversations):
            self.asked += 1
            return [Verdict(0.1), Verdict(0.9), Verdict(ungraded="gone")]

    guard, pairs = Counts(), [LabelledPair("a", "b", True), LabelledPair("c", "d", False), LabelledPair("e", "f", True)]
    assert evaluate_with_page(guard, pairs, tmp_path / "p.html")["ungraded"] == 1
    assert guard.asked == 1
    assert "<td>ungraded</td><td>1" in (tmp_path / "p.html").read_text()
    assert evaluate_with_page(guard, pairs, None)["auc"] == 1
