"""Results go to JSON and come back; a redacted sample has no text to leak."""

import math

import pytest
from pydantic import ValidationError

from softguard.evaluation.metrics import refusal_curve
from softguard.evaluation.results import (
    METRICS,
    EvaluationSummary,
    MetricValue,
    SampleTriple,
    SystemCurves,
    SystemResult,
    withhold,
)


def _summary() -> EvaluationSummary:
    return EvaluationSummary(
        suite="safety",
        systems=[
            SystemResult(system="base", metrics={"zeal": MetricValue(value=None, unit="", note="no headline")}),
            SystemResult(system="student", metrics={"sgs": MetricValue(value=0.9, low=0.8, high=0.95, n=10)}),
        ],
        curves={"student": SystemCurves(roc=refusal_curve([1.0, 2.0], [0.0, 1.5]))},
        samples=[SampleTriple(prompt="Hello?", label="benign", redacted=False, answers={"base": "Hi."})],
        threshold=-math.inf,
        provenance={"seed": 0, "versions": {"torch": "2.13"}},
        limits=["one judge"],
    )


def test_json_round_trip_keeps_infinities() -> None:
    text = _summary().model_dump_json()
    assert "NaN" not in text
    again = EvaluationSummary.model_validate_json(text)
    assert again.threshold == -math.inf
    assert again.curves["student"].roc[0].threshold == math.inf
    assert again.model_dump_json() == text


def test_unknown_fields_and_changes_are_errors() -> None:
    with pytest.raises(ValidationError):
        MetricValue(value=1.0, colour="red")  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        _summary().suite = "other"  # type: ignore[misc]


def test_a_redacted_sample_never_holds_its_text() -> None:
    secret = "SECRET recipe"
    sample = SampleTriple(prompt=secret, label="harmful", answers={"base": secret, "student": "I cannot help with that."})
    assert "SECRET" not in sample.model_dump_json()
    assert sample.prompt == "[redacted: 13 characters]"
    assert sample.answers == {
        "base": "[redacted: 13 characters, an answer]",
        "student": "[redacted: 24 characters, a refusal]",
    }
    assert SampleTriple.model_validate_json(sample.model_dump_json()) == sample
    assert sample.withheld() == sample
    assert withhold("Nein.", answer=True, refused=True) == "[redacted: 5 characters, a refusal]"
    shown = SampleTriple(prompt=secret, label="harmful", redacted=False, answers={"base": secret})
    assert shown.prompt == secret
    assert "SECRET" not in shown.withheld().model_dump_json()


def test_columns_come_in_the_houses_order() -> None:
    assert _summary().metric_names() == ["sgs", "zeal"]
    assert all(info.label and info.definition.endswith(".") for info in METRICS.values())


def test_rows_by_name() -> None:
    row = _summary().system("student")
    assert row is not None
    assert row.title == "student"
    assert _summary().system("nobody") is None
