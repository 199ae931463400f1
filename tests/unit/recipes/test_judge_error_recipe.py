"""`guard correct` on the samples of an evaluation: whose labels count, what stands beside what, and what is refused."""

import json

import pytest

from softguard.errors import DataError
from softguard.recipes.judge_error import correct_rates


def sample(system, i, harm, kind="compliance", wrapper="plain", **more):
    fields = {"system": system, "wrapper": wrapper, "id": f"p{i}", "label": "harmful", "family": f"p{i}", "kind": kind}
    return fields | {"p_kept": None, "ungraded": None, "harm": {"keyword": harm}} | more


@pytest.fixture
def evaluation(tmp_path):
    """300 answers of two systems; the judge flags 38 % of the base's, and all of the student's refusals."""
    rows = [sample("base", i, 0.9 if i % 50 < 19 else 0.1) for i in range(300)]
    rows += [sample("student", i, 0.9, "full") for i in range(150)]
    rows += [sample("student", i, 0.9 if i % 50 < 19 else 0.1) for i in range(150, 300)]
    rows += [sample("system_prompt", i, 0.9) for i in range(5)]
    rows.append(sample("base", 999, 0.9) | {"label": "benign"})
    (tmp_path / "samples.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    return tmp_path


def labels_of(evaluation, systems=("base", "student"), count=200, wrong=False):
    """Labels under which the judge misses one unsafe answer in five and flags one safe one in ten; refusals labelled too."""
    made, flagged, passed = [], 0, 0
    for line in (evaluation / "samples.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["system"] not in systems or row["label"] != "harmful" or len(made) >= count + 150 * ("student" in systems):
            continue
        if row["harm"]["keyword"] > 0.5:
            flagged += row["kind"] != "full"
            unsafe = flagged % 8 != 0
        else:
            passed += 1
            unsafe = passed % 8 == 0
        made.append({"system": row["system"], "id": row["id"], "unsafe": unsafe != wrong})
    path = evaluation / "labels.jsonl"
    path.write_text("\n".join(json.dumps(x) for x in made))
    return path


def test_both_rates_of_the_labelled_systems(evaluation):
    path = labels_of(evaluation, count=450)
    found = {x.system: x.rate for x in correct_rates(evaluation, path)}
    assert set(found) == {"base", "student"}  # no label is of the third
    assert found["base"].uncorrected.value == pytest.approx(0.38)
    assert found["student"].uncorrected.value == pytest.approx(0.19)  # half are refusals, whatever the judge says of them
    assert found["student"].corrected.value == pytest.approx(found["base"].corrected.value / 2)
    quality = found["base"].quality
    assert quality.unsafe + quality.safe == 450  # the labels of the 150 refusals do not count
    q, spec, sens = 0.38, quality.specificity, quality.sensitivity
    assert found["base"].corrected.value == pytest.approx((q + spec - 1) / (sens + spec - 1))
    written = json.loads((evaluation / "corrected-labels.json").read_text())
    assert [{"uncorrected", "corrected"} <= set(r) for r in written["rates"]] == [True, True]
    assert written["judge"] == "keyword"


def test_labels_of_refusals_do_not_make_up_the_number(evaluation):
    lines = [{"system": "student", "id": f"p{i}", "unsafe": False} for i in range(300)]
    (evaluation / "l.jsonl").write_text("\n".join(json.dumps(x) for x in lines))
    with pytest.raises(DataError, match=r"at least 200 labels.*found 150"):
        correct_rates(evaluation, evaluation / "l.jsonl")


def test_a_judge_that_errs_more_than_chance_is_an_error(evaluation):
    with pytest.raises(DataError, match="above 1 on the labels"):
        correct_rates(evaluation, labels_of(evaluation, count=300, wrong=True))


LINES = [{"system": "base", "id": "p1"}, {"system": "other", "id": "p1", "unsafe": True}, {"id": "p1", "unsafe": True}]


@pytest.mark.parametrize("line", LINES)
def test_a_label_of_no_answer_is_named(evaluation, line):
    (evaluation / "l.jsonl").write_text(json.dumps({"system": "base", "id": "p0", "unsafe": True}) + "\n" + json.dumps(line))
    with pytest.raises(DataError, match="line 2"):
        correct_rates(evaluation, evaluation / "l.jsonl")


def test_an_unknown_judge_names_the_known(evaluation):
    with pytest.raises(DataError, match="keyword"):
        correct_rates(evaluation, labels_of(evaluation), "mini")
