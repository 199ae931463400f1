"""A study's grid, what it runs again, what it records of a failure, and its table. Cells here train nothing."""

import json
import sys
from pathlib import Path

import pytest

from softguard.errors import CompatibilityError, ConfigError, TrainingError
from softguard.evaluation.results import EvaluationSummary, MetricValue, SystemResult
from softguard.recipes import study as studying
from softguard.recipes.config import on_this_machine, resolved
from softguard.recipes.paths import with_absolute_paths
from softguard.recipes.study import read_table, run_study
from softguard.recipes.study_plan import load_study
from softguard.runs import RunDir

GRIDS = """
[settings]
"training.steps" = 7
[[grid]]
"objective.kind" = ["tv_disp", "decision_split"]
"training.learning_rate" = [0.01, 0.1]
[[grid]]
"training.learning_rate" = [0.1]
"training.seed" = [0, 1]
"""


def silent(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
    return None


@pytest.fixture
def plan(tmp_path: Path):
    def written(text: str, name: str = "study.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return load_study(path)

    return written


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch):
    """The settings of the cells that were run; those with learning rate 0.1 and seed 1 fail, while `ran.broken`."""

    class Ran(list):
        broken = True

    seen = Ran()

    def distill(config, folder, data_dir, report):
        seen.append((config.objective.kind, config.training.learning_rate, config.training.seed))
        if seen.broken and config.training.seed == 1:
            raise TrainingError("a finite loss", "nan", "lower the rate")
        run = RunDir.create(folder, resolved(on_this_machine(config)))
        report("training", 1, 1, {})
        point = {
            "best_step": 5,
            "num_parameters": 64,
            "threshold": 0.5,
            "training_seconds": 2.0,
            "validation": {"auc": config.training.learning_rate, "drift": 0.1, "score": config.training.learning_rate - 0.1},
        }
        run.write_text("operating_point.json", json.dumps(point))
        run.finish_stage("train")

    def evaluate(folder, report):
        metrics = {"refusal_auc": MetricValue(value=0.7, low=0.6, high=0.8, n=9, unit="auc")}
        summary = EvaluationSummary(suite="test", systems=[SystemResult(system="student", metrics=metrics)])
        run = RunDir.open(folder)
        run.write_text("evaluations/test/summary.json", summary.model_dump_json())
        run.finish_stage("evaluate")

    monkeypatch.setattr(studying, "distill", distill)
    monkeypatch.setattr(studying, "evaluate", evaluate)
    return seen


def test_grids_add_up_and_each_config_comes_once(plan):
    cells = plan(GRIDS)
    chosen = [(c.config.objective.kind, c.config.training.learning_rate, c.config.training.seed) for c in cells]
    assert chosen == [
        ("tv_disp", 0.01, 0),
        ("tv_disp", 0.1, 0),
        ("decision_split", 0.01, 0),
        ("decision_split", 0.1, 0),
        ("decision_split", 0.1, 1),
    ]
    assert {c.config.training.steps for c in cells} == {7}
    assert len({c.name for c in cells}) == 5


def test_another_kind_starts_from_its_own_defaults(plan, tmp_path):
    (tmp_path / "base.toml").write_text('[objective]\nkind = "decision_split"\nanswer_weight = 4.0\n[training]\nsteps = 9\n')
    cells = plan('base = "base.toml"\n[[grid]]\n"objective.kind" = ["tv_disp", "decision_split"]\n')
    assert "answer_weight" not in type(cells[0].config.objective).model_fields
    assert cells[1].config.objective.answer_weight == 4.0
    assert [c.config.training.steps for c in cells] == [9, 9]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a valid grid"),
        ("[[grid]]\n'training.seed' = 1", "write `base`"),
        ("[[grid]]\n'training.seed' = []", "an empty list"),
        ("[[grid]]\n'training.sed' = [1]", "training.seed"),
        ("[[grid]]\n'training.seed' = [-1]", r"a valid training\.seed"),
        ("[[grid]]\n'objective.kind' = ['tv_disp']\n'objective.margin' = [1.0]", "objective.kind = decision_split"),
        ("base = 'absent.toml'\n[[grid]]\n'training.seed' = [1]", "a TOML file"),
        ("grids = 1\n[[grid]]\n'training.seed' = [1]", "a valid grids"),
        (f"[[grid]]\n'training.seed' = {list(range(50))}\n'data.seed' = {list(range(50))}", "2500 in"),
    ],
)
def test_what_is_wrong_in_a_study_is_said_before_any_work(plan, text, message):
    with pytest.raises(ConfigError, match=message):
        plan(text)


def test_finished_cells_are_skipped_and_failed_ones_tried_again(plan, ran, tmp_path):
    cells, out = plan(GRIDS), tmp_path / "out"
    told = []
    result = run_study(cells, out, None, lambda *given: told.append(given[:3]))
    assert len(ran) == 5
    assert ran[0] == ("tv_disp", 0.01, 0)
    assert [c.config.training.seed for c in result.failed] == [1]
    assert told[0] == ("cells", 0, 5)
    assert told[-1] == ("cells", 5, 5)
    failed = [r for r in read_table(result.table) if r["status"] == "failed"]
    assert [r["training.seed"] for r in failed] == [1]
    assert "TrainingError: expected a finite loss; found nan" in failed[0]["error"]

    ran.clear()
    ran.broken = False
    result = run_study(cells, out, None, silent)
    assert ran == [("decision_split", 0.1, 1)]
    assert not result.failed
    assert [p for p in (out / "failures").iterdir()] == []
    rows = read_table(result.table)
    assert [r["config_sha256"] for r in rows] == [c.config_sha256 for c in cells]
    assert [r["validation_auc"] for r in rows] == [0.01, 0.1, 0.01, 0.1, 0.1]
    assert {r["num_parameters"] for r in rows} == {64}
    assert rows[0]["training.seed"] is None, "the grid of this cell says nothing of seeds"
    assert (rows[0]["refusal_auc"], rows[0]["refusal_auc_low"], rows[0]["refusal_auc_n"]) == (0.7, 0.6, 9)


def test_validation_alone(plan, ran, tmp_path):
    cells, out = plan('[[grid]]\n"training.learning_rate" = [0.1]'), tmp_path / "out"
    rows = read_table(run_study(cells, out, None, silent, with_test=False).table)
    assert "refusal_auc" not in rows[0]
    run_study(cells, out, None, silent)
    assert len(ran) == 2, "asked with the test split, the cell goes on"


def test_systems_that_cells_share_are_rows_once_for_each_measurement(plan, ran, monkeypatch, tmp_path):
    def evaluate(folder, report):
        metrics = {"refusal_auc": MetricValue(value=0.7, low=0.6, high=0.8, n=9, unit="auc")}
        systems = [SystemResult(system=name, metrics=metrics) for name in ("base", "system_prompt", "student")]
        run = RunDir.open(folder)
        run.write_text("evaluations/test/summary.json", EvaluationSummary(suite="test", systems=systems).model_dump_json())
        run.finish_stage("evaluate")

    monkeypatch.setattr(studying, "evaluate", evaluate)
    cells = plan('[[grid]]\n"training.learning_rate" = [0.1, 0.2]\n"teacher.guard" = ["mini", "keyword"]\n')
    rows = read_table(run_study(cells, tmp_path / "out", None, silent).table)
    assert [r["status"] for r in rows] == ["done"] * 4 + ["shared"] * 4
    shared = rows[4:]
    assert [(r["system"], r["teacher.guard"]) for r in shared] == [
        ("base", "mini"),
        ("system_prompt", "mini"),
        ("base", "keyword"),
        ("system_prompt", "keyword"),
    ]
    assert {r["cell"] for r in shared} == {r["training.learning_rate"] for r in shared} == {None}
    assert (shared[0]["refusal_auc"], shared[0]["refusal_auc_low"], shared[0]["refusal_auc_n"]) == (0.7, 0.6, 9)


def test_without_pyarrow_no_cell_is_run(plan, ran, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"softguard\[study\]"):
        run_study(plan(GRIDS), tmp_path / "out", None, silent)
    assert ran == []
    assert not (tmp_path / "out").exists()


def test_values_of_several_types_share_a_column(plan, ran, tmp_path):
    text = '[[grid]]\n"model.threads" = [0, 1]\n[[grid]]\n"adapter.placement" = [[{slot = "front", count = 10}]]\n'
    text += '"adapter.num_virtual_tokens" = [10]\n'
    rows = read_table(run_study(plan(text), tmp_path / "out", None, silent).table)
    assert [r["model.threads"] for r in rows] == [0, 1, None]
    assert json.loads(rows[2]["adapter.placement"]) == [{"slot": "front", "count": 10}]


def test_a_folder_of_something_else_is_left_alone(plan, ran, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    with pytest.raises(CompatibilityError, match="choose another --out"):
        run_study(plan(GRIDS), tmp_path / "out", None, silent)
    assert ran == []


def test_one_cell_of_each_teacher_runs_first(plan, ran, tmp_path):
    ran.broken = False
    text = '[[grid]]\n"training.learning_rate" = [0.1, 0.2]\n"teacher.seed" = [0, 1]\n'
    cells = plan(text)
    run_study(cells, tmp_path / "out", None, silent)
    assert [rate for _, rate, _ in ran] == [0.1, 0.1, 0.2, 0.2]


def test_a_table_that_is_none(tmp_path):
    (tmp_path / "x.parquet").write_text("no table")
    with pytest.raises(ConfigError, match="the Parquet table"):
        read_table(tmp_path / "x.parquet")


NAMED = """
[[grid]]
"adapter.kind" = ["kv_prefix"]
"adapter.initialisation" = ["soft_prompt"]
"adapter.initial_adapter" = ["runs/mine/adapter"]
"model.name" = ["weights"]
"teacher.guard" = ["guards/strict.toml", "keyword", "mini@weights", "llama-guard-3-1b@http://host/v1"]
"teacher.server" = ["server.toml"]
"teacher.policy" = ["policy.toml"]
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_cell_is_sent_with_absolute_paths_and_keeps_its_hash(plan, workers, monkeypatch, tmp_path):
    """Workers elsewhere have a working directory of their own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    cells, sent = plan(NAMED), {}
    names = [c.name for c in cells]

    def distil(config, folder, data_dir, report):
        sent[folder.name] = config
        raise TrainingError("a finite loss", "nan", "lower the rate")

    def on_ray(job, arguments, cluster):
        for name, (config, run, data_dir, with_test) in arguments.items():
            assert Path(run).is_absolute()
            yield name, studying.run_cell(config, run, data_dir, with_test, silent)

    monkeypatch.setattr(studying, "distill", distil)
    monkeypatch.setattr(studying, "on_ray", on_ray)
    rows = read_table(run_study(cells, Path("out"), None, silent, workers=workers).table)
    assert [r["cell"] for r in rows] == [c.name for c in cells] == names == list(sent)
    assert rows[0]["teacher.policy"] == "policy.toml"
    here = str(tmp_path)
    for config in sent.values():
        assert config.teacher.policy == f"{here}/policy.toml"
        assert config.teacher.server == f"{here}/server.toml"
        assert config.adapter.initial_adapter == f"{here}/runs/mine/adapter"
        assert config.model.name == f"{here}/weights"
    guards = [c.teacher.guard for c in sent.values()]
    assert guards == [f"{here}/guards/strict.toml", "keyword", f"mini@{here}/weights", "llama-guard-3-1b@http://host/v1"]


def test_what_names_nothing_on_this_disk_is_sent_as_it_is(plan):
    (cell,) = plan('[[grid]]\n"model.name" = ["smollm2-135m"]\n')
    assert with_absolute_paths(cell.config) == cell.config
