"""A study's table and page: every cell is there, a series joins the means of its seeds, nothing is loaded."""

import io
import re

import pytest
from rich.console import Console

from softguard.reports import study, study_plots, study_table, write_study_page


def row(kind: str, rate: float, seed: int, auc: float, **more: object) -> dict[str, object]:
    return {
        "cell": f"{kind}{rate}{seed}",
        "config_sha256": "0",
        "status": "done",
        "error": None,
        "objective.kind": kind,
        "training.learning_rate": rate,
        "training.seed": seed,
        "validation_auc": auc,
        "validation_drift": 0.1,
        "validation_score": auc - 0.1,
        **more,
    }


ROWS = [row(k, r, s, 0.6 + r + 0.01 * s) for k in ("tv_disp", "<b>") for r in (0.01, 0.1) for s in (0, 1)]
SHARED = {"cell": None, "status": "shared", "error": None, "system": "system_prompt", "refusal_auc": 0.58, "benign_drift": 0.09}
FAILED = {**row("tv_disp", 1.0, 0, 0.0), "status": "failed", "error": "TrainingError: <nan>", "validation_score": None}


def test_the_best_cell_comes_first_and_failures_last():
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(study_table([*ROWS, FAILED]))
    lines = [line for line in console.export_text().splitlines() if "tv_disp" in line or "<b>" in line]
    assert "tv_disp0.11" in lines[0]
    assert "failed: TrainingError: <nan>" in lines[-1]
    assert len(lines) == 9


def test_curves_join_the_means_of_the_seeds():
    plots = dict(study_plots([*ROWS, FAILED]))
    curve = plots["validation AUC by learning rate"]
    assert "tv_disp" in curve
    assert "seed" not in curve
    assert "validation AUC against validation drift, nats" in plots


def test_seeds_stand_side_by_side_with_their_intervals():
    interval = {"refusal_auc_low": 0.6, "refusal_auc_high": 0.8}
    rows = [row(k, 0.1, s, 0.7, refusal_auc=0.7 + 0.01 * s, **interval) for k in "ab" for s in (0, 1, 2)]
    drawn = dict(study_plots([*rows, row("c", 0.1, 0, 0.7, refusal_auc=0.9)]))
    assert {"test AUC by seed", "validation AUC by seed"} <= set(drawn)
    assert ">a<" in drawn["test AUC by seed"]
    assert ">c<" not in drawn["test AUC by seed"]  # one seed says nothing of seeds
    assert not any("by seed" in title for title in dict(study_plots([r for r in rows if r["training.seed"] == 0])))


def test_one_seed_shows_its_interval_along_a_curve():
    def bars(**more):
        rows = [row("a", rate, 0, 0.7, refusal_auc=0.7, **more) for rate in (0.01, 0.1)]
        return dict(study_plots(rows))["test AUC by learning rate"].count("<path")

    assert bars(refusal_auc_low=0.6, refusal_auc_high=0.8) > bars()


def bars_drawn(rows, title):
    """How many intervals a plot shows: each is a vertical line of its own."""
    return len(re.findall(r'<path d="M ([\d.]+) [\d.]+ \nL \1 [\d.]+ \n" clip', dict(study_plots(rows))[title]))


ENDS = {"refusal_auc_low": 0.6, "refusal_auc_high": 0.8}


def test_each_seed_of_a_curve_has_its_interval_beside_the_others():
    def rows(**more):
        return [row("a", rate, seed, 0.7, refusal_auc=0.7, **more) for rate in (0.01, 0.1) for seed in (0, 1, 2)]

    title = "test AUC by learning rate"
    assert bars_drawn(rows(**ENDS), title) - bars_drawn(rows(), title) == 6


@pytest.mark.parametrize("title", ["test AUC by learning rate", "test AUC by seed", "test AUC against test drift, nats"])
def test_a_row_without_an_interval_takes_none_from_the_others(title):
    def rows(ends):
        given = {"refusal_auc": 0.7, "benign_drift": 0.1}
        cells = [(rate, seed) for rate in (0.01, 0.1) for seed in (0, 1)]
        return [row("a", *cell, 0.7, **given, **(ENDS if k < ends else {})) for k, cell in enumerate(cells)]

    counts = [bars_drawn(rows(ends), title) for ends in (0, 3, 4)]
    assert counts == [counts[0], counts[0] + 3, counts[0] + 4]


def test_safety_is_drawn_against_over_refusal_and_against_drift():
    rows = [row("a", r, 0, 0.6, refusal_rate=0.5 + r, over_refusal_rate=r, benign_drift=r, refusal_auc=0.7) for r in (0.01, 0.1)]
    titles = dict(study_plots(rows))
    assert {"harmful refused against benign refused", "harmful refused against test drift, nats"} <= set(titles)
    assert "test AUC against test drift, nats" in titles


def test_one_place_is_no_curve():
    assert study_plots([ROWS[0]]) == []
    alone = [row("a", 0.01, 0, 0.6), row("b", 0.1, 0, 0.7)]  # each series at its own rate
    assert not any("learning rate" in title for title in dict(study_plots(alone)))
    curve = dict(study_plots([*ROWS, row("lonely", 0.01, 0, 0.6)]))["validation AUC by learning rate"]
    assert "tv_disp" in curve
    assert "lonely" not in curve


def test_along_the_size_each_place_has_its_best_rate():
    sizes = [
        row("a", rate, 0, auc, **{"adapter.num_virtual_tokens": tokens})
        for tokens, rate, auc in ((4, 0.01, 0.6), (4, 0.1, 0.7), (10, 0.01, 0.8), (10, 0.1, 0.5))
    ]
    at = {place: [r["validation_auc"] for r in of] for place, of in along(sizes, "adapter.num_virtual_tokens").items()}
    assert at == {4: [0.7], 10: [0.8]}
    assert "validation AUC by virtual tokens" in dict(study_plots(sizes))


def test_numbers_learned_are_an_axis_where_a_rank_varies():
    ranks = [row("a", 0.1, 0, 0.6, **{"adapter.rank": rank, "num_parameters": 57600 * rank}) for rank in (1, 2)]
    assert list(along(ranks, "num_parameters")) == [57600, 115200]
    assert "validation AUC by numbers learned" in dict(study_plots(ranks))
    assert "validation AUC by numbers learned" not in dict(study_plots(ROWS))


def along(rows, axis):
    (places,) = study._along(rows, axis, "validation_auc", study._varied(rows)).values()
    return places


def test_shared_systems_stand_above_the_cells_and_in_the_scatter_plot(tmp_path):
    rows = [row("a", r, 0, 0.6, refusal_auc=0.6 + r, benign_drift=r) for r in (0.01, 0.1)] + [SHARED]
    console = Console(width=200, record=True, file=io.StringIO())
    table = study_table(rows)
    console.print(table)
    assert [c.header.plain for c in table.columns][:2] == ["cell", "learning rate"], "nothing else varies"
    lines = console.export_text().splitlines()
    assert "2 cells" in lines[0]
    assert [line.split()[1] for line in lines if line.startswith("│")] == ["system_prompt", "a0.010", "a0.10"]
    plots = dict(study_plots(rows))
    assert "system_prompt" in plots["test AUC against test drift, nats"]
    assert "system_prompt" not in plots["test AUC by learning rate"]
    write_study_page(rows, tmp_path / "study.html")
    page = (tmp_path / "study.html").read_text(encoding="utf-8")
    assert "system_prompt" in page
    assert "failed" not in page


def test_the_page_escapes_and_loads_nothing(tmp_path):
    write_study_page([*ROWS, FAILED], tmp_path / "study.html")
    page = (tmp_path / "study.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert "<b>" not in page
    assert "failed: TrainingError: &lt;nan&gt;" in page
    assert not re.search(r"(src|href)=\"(?!#)", page)
    assert page.count('role="rowheader"') == 9
