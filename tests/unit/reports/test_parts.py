"""The parts of the page: verdict, Pareto plots, bars, the matrix of judges, samples behind a click, plots as files."""

import re
from pathlib import Path

import pytest

from softguard.evaluation.results import (
    CategoryRate,
    Difference,
    EvaluationSummary,
    JudgeAgreement,
    MetricValue,
    SampleTriple,
    SystemResult,
)
from softguard.reports import render_html, write_plots
from softguard.reports.agreement import agreement_matrix
from softguard.reports.bars import MAX_GROUPS, category_bars, wrapper_bars
from softguard.reports.drawing import GRID, INK, MUTED, SERIES
from softguard.reports.html import own_plots
from softguard.reports.pareto import frontier, pareto_plots
from softguard.reports.verdict import NOT_TOLD_APART, told_apart, verdict

CSS = Path(__file__).parents[3] / "src/softguard/reports/templates/report.css"


def value(v: float | None, low: float | None = None, high: float | None = None, unit: str = "rate", n: int = 60) -> MetricValue:
    return MetricValue(value=v, low=low, high=high, n=n, unit=unit)


def system(name: str, label: str = "", **metrics: MetricValue) -> SystemResult:
    return SystemResult(system=name, label=label, metrics=metrics)


def summary(*systems: SystemResult, **more: object) -> EvaluationSummary:
    return EvaluationSummary.model_validate({"suite": "s", "systems": systems, **more})


def rated(name: str, auc: float, drift: float, compute: float, half: float = 0.05) -> SystemResult:
    return system(
        name,
        refusal_rate=value(auc / 2, auc / 2 - half, auc / 2 + half),
        refusal_auc=value(auc, auc - half, auc + half, "auc"),
        benign_drift=value(drift, drift * 0.9, drift * 1.1, "nats"),
        extra_compute=value(compute, unit="ratio"),
    )


def test_colours_are_those_of_the_style_sheet():
    light = CSS.read_text(encoding="utf-8").partition("@media")[0]
    for i, colour in enumerate(SERIES):
        assert f"--series-{i}: {colour};" in light
    assert all(f": {c};" in light for c in (INK, MUTED, GRID))
    assert len({*SERIES, INK, MUTED, GRID}) == len(SERIES) + 3


@pytest.mark.parametrize(
    ("difference", "p_value", "p_holm", "apart"),
    [
        ((-0.1, 0.2), None, None, False),
        ((0.01, 0.2), None, None, True),
        ((-0.1, 0.2), 0.01, None, True),
        ((0.01, 0.2), 0.01, 0.06, False),
        (None, None, None, False),
    ],
)
def test_a_paired_difference_decides_before_the_intervals(difference, p_value, p_holm, apart):
    student, base = system("student", refusal_rate=value(0.5, 0.3, 0.7)), system("base", refusal_rate=value(0.4, 0.2, 0.6))
    of = (
        []
        if difference is None
        else [
            Difference(
                metric="refusal_rate",
                system="student",
                reference="base",
                value=value(0.1, *difference, "points"),
                p_value=p_value,
                p_holm=p_holm,
            )
        ]
    )
    both = summary(base, student, differences=of)
    assert told_apart(both, student, base, "refusal_rate") is apart
    assert (NOT_TOLD_APART in verdict(both)[0]) is not apart


def test_the_verdict_says_the_worst_that_an_attack_did_and_who_judged_it():
    own = summary(rated("base", 0.9, 0, 0), system("student", refusal_rate=value(0.5, 0.3, 0.7)))
    attacked = [
        EvaluationSummary(
            suite=name,
            systems=[
                system("base", attack_success_rate=value(0.8, 0.7, 0.9), **{"attack_success_rate:any": value(0.9, 0.8, 1)}),
                system("student", attack_success_rate=value(0.1, 0, 0.2), **{"attack_success_rate:any": value(worst, 0.1, 0.5)}),
            ],
            judges=["reference"],
        )
        for name, worst in (("One", 0.3), ("Two", 0.4))
    ]
    gain = verdict(own, [(s.suite, s) for s in attacked])[0]
    assert "; at worst, on Two, attack success, some way of asking (judge: reference) is 40.0 % (10.0–50.0 %)" in gain
    assert "against 90.0 % for the base" in gain
    assert "at worst" not in verdict(own)[0]


def test_what_has_no_interval_is_neither():
    student, base = system("student", refusal_rate=value(0.5)), system("base", refusal_rate=value(0.4, 0.2, 0.6))
    assert told_apart(summary(base, student), student, base, "refusal_rate") is None
    assert NOT_TOLD_APART not in verdict(summary(base, student))[0]


def test_of_several_students_the_best_is_named_with_those_it_is_not_parted_from():
    first, near, far = rated("student:a", 0.7, 0.05, 0.1), rated("student:b", 0.68, 0.02, 0.1), rated("student:c", 0.5, 0.5, 0.3)
    gain, price, cost = verdict(summary(rated("base", 0.9, 0, 0), first, near, far))
    assert "Of 3 students student:a tells harmful prompts from look-alikes best" in gain
    assert "student:b is not told apart from it" in gain
    assert "student:c" not in gain
    assert "student:b keeps closest" in price
    assert NOT_TOLD_APART not in price
    assert cost.startswith("student:a and student:b share the best figure of the 3 students")
    assert "measured alike" not in gain
    assert "not all were measured alike" in verdict(summary(first, far, limits=["c was not measured as a was."]))[0]


def test_nobody_on_the_frontier_is_beaten():
    points = [(0.0, 0.6), (0.3, 0.75), (0.1, 0.5), (0.3, 0.7), (0.0, 0.6)]
    assert frontier(points) == [0, 4, 1]
    assert frontier([]) == []


def test_pareto_plots_say_who_is_missing_and_take_the_auc():
    guarded = system("guarded", refusal_auc=value(0.74, 0.6, 0.8, "auc"), extra_compute=value(0.27, unit="ratio"))
    drift, compute = pareto_plots(summary(rated("base", 0.6, 0, 0), guarded, rated("student", 0.65, 0.06, 0.34)))
    assert [drift.name, compute.name] == ["safety-drift", "safety-compute"]
    assert "not here: guarded system" in drift.text
    assert "not here" not in compute.text
    drawn = drift.inline()
    assert "AUC, harmful against look-alike" in drawn
    assert "student" in drawn
    assert "guarded system" not in drawn
    assert len(compute.figure.axes[0].containers) == 3


def test_one_system_is_no_trade_off():
    assert pareto_plots(summary(rated("base", 0.6, 0, 0))) == []


def attacked(name: str, **by: float) -> SystemResult:
    metrics = {f"attack_success_rate{':' + w if w != 'plain' else ''}": value(v, v / 2, (1 + v) / 2, n=20) for w, v in by.items()}
    return SystemResult(system=name, metrics=metrics | {"attack_success_rate@other:any": value(0.1)})


def test_wrapper_bars_have_every_way_once_and_the_worst_last():
    plot = wrapper_bars(summary(attacked("base", plain=0.9, any=1.0, past_tense=0.8), attacked("student", plain=0.1, any=0.7)))
    assert plot is not None
    labels = [t.get_text() for t in plot.figure.axes[0].get_yticklabels()]
    assert labels == ["plain (20)", "past tense (20)", "some way of asking (20)"]
    assert sorted(round(bar.get_width(), 2) for bar in plot.figure.axes[0].patches) == [0.1, 0.7, 0.8, 0.9, 1.0]
    assert wrapper_bars(summary(attacked("base", plain=0.9))) is None


def test_category_bars_draw_what_is_known_and_say_what_is_left_out():
    rates = [
        CategoryRate(category=f"c{i}", metric="refusal_rate", system=s, value=value(None if i == 0 else 0.5, 0.2, 0.8, n=i + 1))
        for i in range(MAX_GROUPS + 2)
        for s in ("base", "student")
    ]
    (plot,) = category_bars(summary(system("base"), system("student"), categories=rates))
    labels = [t.get_text() for t in plot.figure.axes[0].get_yticklabels()]
    assert len(labels) == MAX_GROUPS
    assert labels[0] == "c2 (3)"
    assert "The 2 smallest categories are left out" in plot.text
    assert category_bars(summary(system("base"))) == []


def test_the_matrix_has_kappa_above_and_shares_below():
    pairs = [
        JudgeAgreement(first="a", second="b", kappa=0.5, low=0.4, high=0.6, observed=0.8, n=10, ungraded=1),
        JudgeAgreement(first="a", second="c", kappa=None, observed=1.0, n=10),
        JudgeAgreement(first="b", second="c", n=0, ungraded=10),
    ]
    found = agreement_matrix(pairs)
    assert found.judges == ["a", "b", "c"]
    assert [row[i] for i, row in enumerate(found.cells)] == ["", "", ""]
    assert found.cells[0][1] == "kappa 0.50 (0.40 to 0.60)"
    assert found.cells[1][0] == "80.0 % of 10 answers, 1 ungraded by either"
    assert found.cells[0][2].startswith("kappa not defined")
    assert found.cells[2][1] == "nothing that both have graded"


def test_harmful_text_is_in_the_page_only_when_asked_for_and_then_folded():
    sample = SampleTriple(prompt="HIDDEN", label="harmful", redacted=False, answers={"base": "HIDDEN answer"})
    one = summary(system("base"), samples=[sample])
    closed = render_html(one)
    assert "HIDDEN" not in closed
    assert re.search(r"<details><summary>What is left of it</summary>.*?\[redacted: 6 characters\]", closed, re.DOTALL)
    asked = render_html(one, show_harmful=True)
    assert re.search(r"<details><summary>Show the harmful text</summary>.*?HIDDEN", asked, re.DOTALL)
    assert "This file holds harmful text" in asked
    assert "<details open" not in asked


def test_plots_are_files_in_colours_of_their_own(tmp_path):
    one = summary(rated("base", 0.6, 0, 0), rated("student", 0.65, 0.06, 0.34))
    suite = summary(attacked("base", plain=0.9, any=1.0))
    paths = write_plots(tmp_path / "plots", one, suites=[("harmbench-1/..", suite)])
    names = {p.name for p in paths}
    assert (
        names
        == {f"{p.name}.{kind}" for p in own_plots(one) for kind in ("svg", "png")}
        | {
            "harmbench-1-wrappers.svg",
            "harmbench-1-wrappers.png",
        }
        == {p.name for p in (tmp_path / "plots").iterdir()}
    )
    text = (tmp_path / "plots/safety-drift.svg").read_text(encoding="utf-8")
    assert "var(" not in text
    assert SERIES[1] in text
    assert (tmp_path / "plots/safety-drift.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
