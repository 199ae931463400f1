"""The studies of methods: their grids are whole, their rows are those of the runs, what is chosen is chosen by validation."""

import json

import pytest

from benchmarks.methods import __main__ as methods
from benchmarks.methods.rows import chosen, collect, mark_chosen
from softguard.adapters import ADAPTERS
from softguard.evaluation.results import EvaluationSummary, MetricValue, SystemResult
from softguard.objectives import OBJECTIVES
from softguard.recipes import study as studying
from softguard.recipes.config import on_this_machine, resolved, validate_config
from softguard.recipes.prompts import balanced, own_prompts
from softguard.recipes.study_plan import load_study
from softguard.reports import study_plots, study_table
from softguard.runs import RunDir

CELLS = {name: load_study(path) for name, path in methods.studies().items()}


def test_every_objective_and_every_adapter_has_its_cells():
    assert set(CELLS) == {"1-leaders", "1-objectives", "1-on-policy", "2-adapters", "3-size", "4-placement", "5-seeds", "6-gemma"}
    first = [c for name in ("1-objectives", "1-on-policy") for c in CELLS[name]]
    assert {c.config.objective.kind for c in first} == set(OBJECTIVES)
    for kind in OBJECTIVES:
        assert len({c.config.training.learning_rate for c in first if c.config.objective.kind == kind}) >= 4
    assert len({c.config.training.steps for c in first}) == 1
    assert {c.config.adapter.kind for c in CELLS["2-adapters"]} == set(ADAPTERS)
    assert {c.config.adapter.layout for c in CELLS["3-size"]} == {(("front", size),) for size in (4, 10, 32, 100)}
    assert {key for c in CELLS["3-size"] for key in c.settings} == {"adapter.num_virtual_tokens", "training.learning_rate"}
    places = [dict(c.config.adapter.layout) for c in CELLS["4-placement"]]
    assert {slot for place in places for slot in place} == {"front", "system", "after_user", "after_header"}
    assert {c.config.adapter.initialisation for c in CELLS["4-placement"]} == {"text", "vocabulary_sample", "random"}
    assert {c.config.training.seed for c in CELLS["5-seeds"]} == {0, 1, 2}
    readme = (methods.HERE / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` | {len(cells)} |" in readme for name, cells in CELLS.items())


def figures(value):
    return {"refusal_auc": MetricValue(value=value, low=value - 0.1, high=value + 0.1, n=9, unit="auc")}


@pytest.fixture
def trained(monkeypatch):
    """Runs that train nothing: validation likes 0.02 best and fails at 0.06; the test split would like another.

    Gives the folders that were trained in.
    """
    folders = []

    def distill(config, folder, data_dir, report):
        rate = config.training.learning_rate
        if rate == 0.06:
            raise ArithmeticError("too fast")
        run = RunDir.create(folder, resolved(on_this_machine(config)))
        found = {"auc": 0.5 + rate, "drift": 0.1, "score": 0.4 + rate}
        found |= {"auc_low": 0.4 + rate, "auc_high": 0.6 + rate, "auc_n": 160}
        point = {"best_step": 20, "num_parameters": 7, "threshold": 0.5, "training_seconds": 2.0, "validation": found}
        run.write_text("operating_point.json", json.dumps(point))
        if "train" not in run.stages():
            folders.append(folder)
            run.finish_stage("train")

    def evaluate(folder, report):
        run = RunDir.open(folder)
        measured = {"base": 0.5, "system_prompt": 0.6, "student": 0.8}
        systems = [SystemResult(system=s, metrics=figures(v)) for s, v in measured.items()]
        config = validate_config(run.config)
        separates = config.objective.kind == "decision_split"
        prompts = balanced(own_prompts("test"), config.evaluation.prompts_per_label, config.data.seed)
        said = [json.dumps({"refusal_log_odds": float(separates and p.label == "harmful")}) for p in prompts]
        run.write_text("evaluations/test/student.jsonl", "\n".join(said))
        run.write_text("evaluations/test/summary.json", EvaluationSummary(suite="test", systems=systems).model_dump_json())
        run.finish_stage("evaluate")

    monkeypatch.setattr(studying, "distill", distill)
    monkeypatch.setattr(studying, "evaluate", evaluate)
    return folders


def test_a_study_reads_the_test_split_of_what_validation_chose(trained, tmp_path):
    pytest.importorskip("pyarrow")
    rows = methods.run("1-objectives", tmp_path / "runs", None, tmp_path / "results")
    assert rows == methods.committed(tmp_path / "results")
    assert (tmp_path / "results" / "1-objectives.parquet").is_file()
    assert [r["method"] for r in rows[:2]] == ["base", "system_prompt"]
    cells = rows[2:]
    assert len(cells) == 48
    assert {r["error"][:25] for r in cells if r["status"] == "failed"} == {"ArithmeticError: too fast"}
    taken = [r for r in cells if r.get("chosen")]
    assert {r["learning_rate"] for r in taken} == {0.02, 0.2}
    assert len(taken) == 12
    assert all(bool(r["metrics"]) == r["chosen"] for r in cells if r["status"] == "done")
    best = taken[0]
    interval = {"low": pytest.approx(0.7), "high": pytest.approx(0.9)}
    assert best["metrics"]["refusal_auc"] == {"value": 0.8, **interval, "n": 9, "unit": "auc"}
    assert [best[key] for key in ("objective", "adapter", "seed")] == ["tv_disp", "soft_prompt", 0]
    assert best["method"] == "tv_disp soft_prompt"
    assert best["config_sha256"].startswith(best["cell"])
    assert best["num_parameters"] == 7
    leads = {r["objective"]: r["auc_lead"] for r in taken if "auc_lead" in r}
    assert set(leads) == {r["objective"] for r in taken} - {"tv_disp"}
    assert leads["decision_split"] == {"value": 0.5, "low": 0.5, "high": 0.5, "over": best["cell"]}
    assert leads["kl_disp"]["value"] == 0


def test_studies_share_their_cells_and_nothing_else(trained, tmp_path):
    pytest.importorskip("pyarrow")
    rows = {}
    for name, seen in (("4-placement", 7), ("3-size", 11), ("1-objectives", 46)):
        rows[name] = methods.run(name, tmp_path / "runs", None, tmp_path / "results")
        assert len(trained) == seen
        table = studying.read_table(tmp_path / "results" / f"{name}.parquet")
        assert {r["cell"] for r in table} <= {None, *(c.name for c in CELLS[name])}
    done = [r for r in rows["1-objectives"] if r.get("cell") and r["status"] == "done"]
    assert all(bool(r["metrics"]) == r["chosen"] for r in done), "what 4-placement has measured was not chosen here"


def test_committed_tables_are_read():
    pytest.importorskip("pyarrow")
    tables = {path.stem: studying.read_table(path) for path in methods.RESULTS.glob("*.parquet")}
    assert {"1-objectives", "4-placement", "5-seeds"} <= set(tables)
    for rows in tables.values():
        assert study_table(rows).row_count == len(rows)
    plots = {name: [title for title, _ in study_plots(rows)] for name, rows in tables.items()}
    assert any("by learning rate" in title for title in plots["1-objectives"])
    assert not any("by learning rate" in title for title in plots["5-seeds"]), "each objective has a rate of its own there"


def test_a_rate_is_chosen_by_the_mean_of_its_seeds():
    rows = [
        {"method": "m", "status": "done", "learning_rate": rate, "validation": {"score": score}}
        for rate, score in ((0.1, 0.9), (0.1, 0.1), (0.2, 0.6), (0.2, 0.6))
    ]
    mark_chosen(rows)
    assert [r["chosen"] for r in rows] == [False, False, True, True]


def test_a_cell_again_stands_beside_its_committed_row(trained, tmp_path):
    pytest.importorskip("pyarrow")
    cells = load_study(methods.studies()["4-placement"])
    studying.run_study(cells, tmp_path / "runs", None, lambda *given: None, with_test=False)
    rows = collect("4-placement", cells, tmp_path / "runs")
    assert len(chosen(cells, rows)) == len(cells)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "4-placement.json").write_text(json.dumps(rows))
    before, again = methods.rerun(cells[0].name, None, tmp_path / "results")
    assert (before["cell"], again["cell"]) == (cells[0].name, cells[0].name)
    assert again["again"]
    assert again["metrics"]["refusal_auc"]["value"] == 0.8
    assert not before["metrics"]


def test_the_command_runs_a_cell_again_and_prints_both_rows(trained, monkeypatch, tmp_path, capsys):
    """`--rerun CELL`, as a table and with `--json`, on a study of two cells."""
    pytest.importorskip("pyarrow")
    (tmp_path / "tiny.toml").write_text('[[grid]]\n"training.learning_rate" = [0.02, 0.006]\n"training.steps" = [7]\n')
    monkeypatch.setattr(methods, "studies", lambda: {"tiny": tmp_path / "tiny.toml"})
    monkeypatch.setattr(methods, "RESULTS", tmp_path / "results")
    first, second = load_study(tmp_path / "tiny.toml")
    methods.run("tiny", tmp_path / "runs", None, results=tmp_path / "results")
    cells = [r for r in studying.read_table(tmp_path / "results" / "tiny.parquet") if r["cell"]]
    assert [(r["validation_auc"], r["validation_auc_low"], r["validation_auc_n"]) for r in cells] == [
        (pytest.approx(0.5 + rate), pytest.approx(0.4 + rate), 160) for rate in (0.02, 0.006)
    ]
    old = methods.committed(tmp_path / "results")
    for row in old:
        if row.get("validation"):
            row["validation"] = {k: row["validation"][k] for k in ("auc", "drift", "score")}  # as rows of before have it
    (tmp_path / "results" / "tiny.json").write_text(json.dumps(old))
    capsys.readouterr()
    assert methods.main(["--rerun", first.name[:6], "--json"]) == 0
    before, again = json.loads(capsys.readouterr().out)
    assert before == next(row for row in old if row.get("cell") == first.name)
    assert (again["cell"], again["again"], again["validation"]["auc_n"]) == (first.name, True, 160)
    assert methods.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == old
    monkeypatch.setenv("COLUMNS", "250")
    for cell, figure in ((first, "0.520 [0.420, 0.620]"), (second, "0.506 [0.406, 0.606]")):  # chosen or not
        assert methods.main(["--rerun", cell.name]) == 0
        committed, anew = (line for line in capsys.readouterr().out.splitlines() if "tiny" in line)
        assert figure in anew
        assert "again" in anew
        assert figure[:5] in committed
        assert figure not in committed
    (tmp_path / "results" / "tiny.json").unlink()
    assert methods.main(["--rerun", second.name, "--json"]) == 0
    assert [row["cell"] for row in json.loads(capsys.readouterr().out)] == [second.name], "none is committed: the new row alone"
    (tmp_path / "tiny.toml").write_text('[[grid]]\n"training.learning_rate" = [0.06]\n')
    (failing,) = load_study(tmp_path / "tiny.toml")
    assert methods.main(["--rerun", failing.name]) == 2
    assert "again, failed: ArithmeticError: too fast" in capsys.readouterr().out


def test_the_command_prints_rows_and_says_what_is_wrong(monkeypatch, tmp_path, capsys):
    rows = [{"study": "5-seeds", "method": "m", "status": "done", "chosen": True, "learning_rate": 0.1, "metrics": {}}]
    monkeypatch.setattr(methods, "committed", lambda *given: rows)
    assert methods.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == rows
    assert methods.main([]) == 0
    assert "5-seeds" in capsys.readouterr().out
    monkeypatch.setattr(methods, "committed", lambda *given: [])
    assert methods.main(["--json"]) == 0
    assert "no study has been run" in capsys.readouterr().err
    for wrong in (["--run", "absent"], ["--rerun", "zz"]):
        assert methods.main(wrong) == 2
        assert "expected" in capsys.readouterr().err
