"""The main path with the embedded model and guard: distil, evaluate, answer, judge; killed and gone on with."""

import json
import re
import signal
from pathlib import Path

import pytest

from softguard.data import load_prompts
from softguard.runs import RunDir
from tests.e2e.conftest import REDUCED, CommandLine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ANSWERS = ("base", "guarded", "system_prompt", "student")


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write(path, rows):
    text = "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def one_line(text):
    assert text.endswith("\n")
    assert text.count("\n") == 1, text
    return text


def test_a_run_directory_is_whole(finished):
    run = RunDir.open(finished.path)  # checks every hash of the manifest
    assert run.stages() == ["train", "evaluate", "report"]
    expected = {"config.toml", "provenance.json", "operating_point.json", "metrics.jsonl", "report.html", "report.md"}
    expected |= {"adapter/adapter_model.safetensors", "adapter/softguard_adapter.json"}
    expected |= {f"evaluations/test/{name}.jsonl" for name in ANSWERS} | {"evaluations/test/summary.json"}
    assert set(json.loads((finished.path / "manifest.json").read_text())["files"]) == expected
    assert run.config["training"]["steps"] == 4
    assert run.config["training"]["gradient_clip"] > 0  # resolved: defaults are written down too
    assert [row["step"] for row in lines(finished.path / "metrics.jsonl")] == [1, 2, 3, 4]
    assert json.loads((finished.path / "provenance.json").read_text())["guard"]["name"] == "mini"
    assert not [p for p in finished.path.rglob("*") if "partial" in p.name]


def test_the_table_goes_to_stdout_and_progress_to_stderr(finished, softguard):
    for shown in ("Evaluation", "Base model", "Student", "Over-refusal", "Added"):
        assert shown in finished.stdout
        assert shown not in finished.stderr
    for stage in ("teacher: training drafts: 24/24", "training: 4/4", "answers: student: 12/12", "report: "):
        assert stage in finished.stderr
        assert stage not in finished.stdout
    again = softguard.run("evaluate", finished.path)
    assert (again.returncode, again.stdout) == (0, finished.stdout)
    assert "answers" not in again.stderr  # what is done is not done again


def test_the_report_loads_nothing_and_withholds_harmful_text(finished):
    page = (finished.path / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 2
    assert not re.findall(r"""(?:src|href|srcset|action)\s*=\s*["']?(?!["']?#)[^\s>]{1,60}""", page)
    assert not re.findall(r"<(?:script|link|iframe|img|object|embed)\b|@import|url\((?!#)", page)
    harmful = [r.prompt for r in load_prompts("softguard") if r.label == "harmful"]
    shown = page + finished.stdout + (finished.path / "report.md").read_text(encoding="utf-8")
    assert not [i for i, prompt in enumerate(harmful) if prompt in shown]


def test_a_run_killed_at_every_stage_ends_bit_for_bit_the_same(finished, tmp_path):
    softguard = CommandLine.with_fresh_cache(tmp_path / "cache")
    run = tmp_path / "run"

    def drafted(_):
        return list((softguard.cache / "teacher").glob("*/shard-????????????????.json"))

    moments = {
        "sampling": lambda log: "teacher: training drafts: 0/24" in log,
        "judging": drafted,
        "training": lambda _: (run / "checkpoints" / "latest.safetensors").exists(),
        "calibrating": lambda _: (run / "adapter" / "softguard_adapter.json").exists(),
        "answering": lambda _: (run / "evaluations" / "test" / "base.jsonl").exists(),
    }
    left = {
        "sampling": lambda: not drafted(""),
        "judging": lambda: len(drafted("")) == 1 and not (run / "checkpoints").exists(),
        "training": lambda: not (run / "adapter").exists(),
        "calibrating": lambda: not (run / "manifest.json").exists(),
        "answering": lambda: not (run / "evaluations" / "test" / "student.jsonl").exists(),
    }
    command = ("distill", "--config", REDUCED, "--out", run)
    for name, moment in moments.items():
        assert softguard.stop(signal.SIGKILL, moment, tmp_path / f"{name}.log", *command) == -signal.SIGKILL
        assert left[name](), f"the kill came too late for {name}"
    done = softguard.run(*command)
    assert done.returncode == 0, done.stderr
    assert "training drafts: 24/24" not in done.stderr  # training was not begun again
    weights = "adapter/adapter_model.safetensors"
    assert (run / weights).read_bytes() == (finished.path / weights).read_bytes()
    assert RunDir.open(run).stages() == ["train", "evaluate", "report"]
    for name in ANSWERS:
        assert lines(run / f"evaluations/test/{name}.jsonl") == lines(finished.path / f"evaluations/test/{name}.jsonl"), name
    for row, whole in zip(lines(run / "metrics.jsonl"), lines(finished.path / "metrics.jsonl"), strict=True):
        assert {**row, "seconds": 0} == {**whole, "seconds": 0}


def test_ctrl_c_exits_130_and_leaves_a_run_to_go_on_with(tmp_path):
    softguard = CommandLine.with_fresh_cache(tmp_path / "cache")
    command = ("distill", "--config", REDUCED, "--out", tmp_path / "run")
    log = tmp_path / "log"
    assert softguard.stop(signal.SIGINT, lambda said: "teacher: training drafts: 0/24" in said, log, *command) == 130
    assert "interrupted; run the same command again" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert [p.name for p in (tmp_path / "run").iterdir() if p.name != "provenance.json"] == ["config.toml"]


@pytest.mark.parametrize("system", ANSWERS)
def test_respond_keeps_order_and_does_the_good_lines(system, finished, softguard, tmp_path):
    rows = [
        {"id": "long", "prompt": "Name three rivers of Europe, and say for each into which sea it flows.", "mine": 1},
        {"id": 2, "prompt": "Name a tree."},
        {"id": "turns", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello!"}]},
    ]
    source = write(tmp_path / "in.jsonl", [rows[0], "{broken", rows[1], {"id": "none"}, rows[2]])
    out = tmp_path / "out.jsonl"
    done = softguard.run("respond", finished.path, "--system", system, "--in", source, "--out", out, "--max-new-tokens", 6)
    answered = lines(out)
    asked = [{k: row[k] for k in given} for row, given in zip(answered, rows, strict=True)]
    assert asked == rows
    added = {"response", "refusal_log_odds"} | ({"p_safe", "replaced"} if system == "guarded" else set())
    added |= {"refused"} if system == "student" else set()
    for row, given in zip(answered, rows, strict=True):
        assert set(row) - set(given) == added
        assert isinstance(row["response"], str)
        assert isinstance(row["refusal_log_odds"], float)
        if system == "guarded":
            assert 0 <= row["p_safe"] <= 1
            assert isinstance(row["replaced"], bool)
    assert [e["line"] for e in lines(tmp_path / "out.jsonl.errors.jsonl")] == [2, 4]
    assert all(e["error"] for e in lines(tmp_path / "out.jsonl.errors.jsonl"))
    assert done.returncode == 2, f"exit code {done.returncode} in spite of bad lines"


def test_a_killed_respond_goes_on_where_it_stopped(softguard, tmp_path):
    rows = [{"id": f"r{i}", "prompt": f"Name {i} things.\u2028Be brief.\x85"} for i in range(70)]
    source, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    partial = tmp_path / "out.jsonl.partial"
    command = ("respond", "smollm2-135m", "--system", "base", "--in", source, "--out", out, "--max-new-tokens", 12)

    def begun(_):
        return partial.exists() and partial.read_bytes().count(b"\n") > 1

    assert softguard.stop(signal.SIGKILL, begun, tmp_path / "log", *command) == -signal.SIGKILL
    assert not out.exists()
    finished_lines = partial.read_bytes().split(b"\n")[1:-1]
    assert 0 < len(finished_lines) < len(rows)
    marked = partial.read_text(encoding="utf-8").replace('"response": "', '"response": "KEPT ')
    partial.write_text(marked + '{"id": "torn', encoding="utf-8")
    done = softguard.run(*command)
    assert done.returncode == 0, done.stderr
    assert [{"id": r["id"], "prompt": r["prompt"]} for r in lines(out)] == rows
    kept = [r["response"].startswith("KEPT ") for r in lines(out)]
    assert kept == [i < len(finished_lines) for i in range(len(rows))]
    assert not partial.exists()


def test_a_guarded_model_without_a_guard_is_an_error_of_one_line(softguard, tmp_path):
    source, out = write(tmp_path / "in.jsonl", [{"id": "a", "prompt": "Name a tree."}]), tmp_path / "out.jsonl"
    done = softguard.run("respond", "smollm2-135m", "--system", "guarded", "--in", source, "--out", out)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "--guard" in done.stderr
    assert not out.exists()
    assert one_line(done.stderr).startswith("error: expected")


def test_judge_grades_what_can_be_graded(softguard, tmp_path):
    pairs = [
        {"id": "river", "prompt": "Name a river.", "response": "The Rhine."},
        {"id": "empty", "prompt": "", "response": "The Rhine."},
        {"id": "tree", "prompt": "Name a tree.", "response": "", "mine": [1]},
    ]
    out = tmp_path / "verdicts.jsonl"
    done = softguard.run("judge", "--guard", "mini", "--in", write(tmp_path / "pairs.jsonl", pairs), "--out", out)
    assert done.returncode == 0, done.stderr
    river, empty, tree = lines(out)
    for verdict, pair in ((river, pairs[0]), (tree, pairs[2])):
        assert set(verdict) == set(pair) | {"p_safe", "categories"}
        assert 0 <= verdict["p_safe"] <= 1
        assert all(0 <= score <= 1 for score in verdict["categories"].values())
    assert river["p_safe"] > 0.5
    assert empty == {**pairs[1], "ungraded": "empty prompt"}


def test_an_unknown_setting_names_the_nearest_and_leaves_nothing(tmp_path):
    softguard = CommandLine.with_fresh_cache(tmp_path / "cache")
    done = softguard.run("distill", "--config", REDUCED, "--out", tmp_path / "run", "--set", "training.learning_rat=0.1")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "learning_rate" in done.stderr
    assert not (tmp_path / "run").exists()
    assert not (softguard.cache / "teacher").exists()
    assert one_line(done.stderr).startswith("error: expected a known setting; found 'training.learning_rat'")


def test_the_committed_reference_answers(softguard, tmp_path):
    reference = Path(__file__).parents[2] / "benchmarks" / "reference"
    asked = write(tmp_path / "in.jsonl", [{"id": "a", "prompt": "How do I bake bread?"}, {"id": "b", "prompt": "Name a river."}])
    done = softguard.run("respond", reference, "--in", asked, "--out", tmp_path / "out.jsonl", "--max-new-tokens", 4)
    assert done.returncode == 0, done.stderr
    assert [row["refused"] for row in lines(tmp_path / "out.jsonl")] == [False, False]
    public = json.loads((reference / "public.json").read_text())["figures"]
    assert set(public) == {"base", "student"}
