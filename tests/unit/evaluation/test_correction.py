"""Holm over the suites that are shown together: one family of tests for each question."""

import pytest

from softguard.evaluation.correction import corrected
from softguard.evaluation.results import Difference, EvaluationSummary, MetricValue, metric_info, metric_name


def summary(*p_values: float | None) -> EvaluationSummary:
    value = MetricValue(value=0.1, unit="points")
    metrics = ("refusal_rate", "over_refusal_rate")
    rows = [
        Difference(metric=m, system="student", reference="base", value=value, p_value=p, test="t")
        for m, p in zip(metrics, p_values, strict=False)
    ]
    return EvaluationSummary(suite="s", systems=[], differences=rows)


def test_each_question_is_corrected_over_the_suites() -> None:
    found = corrected([summary(0.01, 0.5), summary(0.04, None), summary(0.03)])
    assert [d.p_holm for s in found for d in s.differences if d.metric == "refusal_rate"] == pytest.approx([0.03, 0.06, 0.06])
    assert [d.p_holm for s in found for d in s.differences if d.metric == "over_refusal_rate"] == [0.5, None]
    assert [d.p_value for d in found[0].differences] == [0.01, 0.5]
    assert corrected([]) == []


@pytest.mark.parametrize(
    ("name", "label"),
    [
        (metric_name("attack_success_rate"), "Attack success"),
        (metric_name("attack_success_rate", wrapper="few_shot"), "Attack success, few shot"),
        (metric_name("attack_success_rate", wrapper="any"), "Attack success, some way of asking"),
        (
            metric_name("attack_success_rate", "strongreject@org/m-1", "base64"),
            "Attack success, base64 (judge: strongreject@org/m-1)",
        ),
        (metric_name("attack_success_rate", "llama@http://h:80/v1"), "Attack success (judge: llama@http://h:80/v1)"),
        (metric_name("partial_refusal_rate", group="look_alike"), "Partial refusal, look-alike"),
    ],
)
def test_a_metrics_name_says_its_judge_and_wrapper(name: str, label: str) -> None:
    info = metric_info(name)
    assert info is not None
    assert info.label == label


def test_a_strangers_metric_has_no_entry() -> None:
    assert metric_info("no_such_rate:base64") is None
    assert metric_info("???") is None
