"""Several runs on one suite: as one by one, failures told and not in the way, side by side where Ray is asked for."""

import pickle
import sys
from types import SimpleNamespace

import pytest

from softguard.cli import runs as commands
from softguard.errors import ConfigError, RunError
from softguard.evaluation.judges import load_judge
from softguard.recipes import distill as distilling
from softguard.recipes import suites as measuring
from softguard.recipes.cluster import Cluster
from softguard.recipes.compare import compare_suites
from softguard.recipes.evaluate_many import evaluate_many, first_of_each
from softguard.recipes.ray_tasks import on_ray, what_went_wrong
from softguard.recipes.suite_request import SuiteRequest
from softguard.recipes.suites import summaries_of
from softguard.runs import RunDir
from tests.fakes import KeywordGuard, tiny_model
from tests.unit.recipes.tiny_run import tiny_run

REQUEST = SuiteRequest("malicious_instruct", judges="refusal")


class Died(Exception):
    """What Ray raises of a process that ended."""


@pytest.fixture
def ray(monkeypatch):
    """Ray, in this process: what a task is given goes through pickle, and a job named `dies` ends its process."""
    asked: list[tuple[str, ...]] = []

    def remote(**options):
        def task(job):
            def call(*given):
                asked.append(given)
                return lambda: job(*pickle.loads(pickle.dumps(given)))

            return SimpleNamespace(remote=call)

        return task

    def get(ended):
        if asked and "dies" in asked[-1]:
            raise Died("lost")
        return ended()

    fake = SimpleNamespace(
        is_initialized=lambda: True,
        remote=remote,
        wait=lambda waiting, num_returns: (waiting[:1], waiting[1:]),
        get=get,
        cluster_resources=lambda: {"CPU": 2.0},
        exceptions=SimpleNamespace(RayError=Died),
    )
    monkeypatch.setitem(sys.modules, "ray", fake)
    return asked


@pytest.fixture
def runs(tmp_path, monkeypatch):
    lm = tiny_model()
    monkeypatch.setenv("SOFTGUARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(distilling, "load_base", lambda config: lm)
    monkeypatch.setattr(measuring, "load_guard", lambda name: KeywordGuard("zz 1"))
    (tmp_path / "data/malicious_instruct").mkdir(parents=True)
    (tmp_path / "data/malicious_instruct/MaliciousInstruct.txt").write_text("zz 0\nzz 1")
    made = [tiny_run(tmp_path / "a", lm, -1e9, "No."), tiny_run(tmp_path / "b", lm, 1e9, "No.", seed=1)]
    broken = tiny_run(tmp_path / "c", lm, 0.0, "No.", 2)
    RunDir(broken).write_text("operating_point.json", "{}")
    RunDir(broken).finish_stage("train")
    return [*made, broken], tmp_path / "data"


def silent(stage, done, total, figures):
    return None


@pytest.mark.parametrize("workers", [1, 2])
def test_runs_are_measured_and_a_broken_one_is_told(runs, ray, workers):
    (first, second, broken), data = runs
    ended = evaluate_many([first, second, broken, first], REQUEST, data, silent, Cluster(workers))
    assert list(ended) == [first, second, broken]
    assert ended[first] == ended[second] == ""
    assert "Error" in ended[broken]
    assert len(ray) == (0 if workers == 1 else 3)
    ((_, a),), ((_, b),) = summaries_of(RunDir.open(first)), summaries_of(RunDir.open(second))
    assert a.system("base") == b.system("base")
    assert (a.system("student").metrics["refusal_rate"].value, b.system("student").metrics["refusal_rate"].value) == (1, 0)
    ((_, compared),) = compare_suites([first, second])
    tested = {(d.system, d.reference) for d in compared.differences if d.metric == "attack_success_rate"}
    assert {("student:a", "base"), ("student:b", "base")} <= tested
    assert all(d.p_holm is not None for d in compared.differences if d.p_value is not None)


def test_one_of_each_base_model_and_guard_goes_first(runs, tmp_path):
    (first, second, _), _ = runs
    assert first_of_each([second, first]) == ([second], [first])
    with pytest.raises(RunError):
        first_of_each([tmp_path / "none"])


def test_a_process_that_ends_is_what_went_wrong(ray):
    assert dict(on_ray(lambda word: "", {"x": ("dies",)}, Cluster(2))) == {"x": "Died: lost"}
    assert dict(on_ray(lambda word: f"not {word}", {"y": ("good",)}, Cluster(2))) == {"y": "not good"}
    assert list(on_ray(lambda: "", {}, Cluster(2))) == []


@pytest.mark.parametrize(("there", "taken"), [({"CPU": 2.0}, 0), ({"CPU": 2.0, "GPU": 4.0}, 1)])
def test_a_job_has_a_gpu_where_there_is_one(ray, monkeypatch, there, taken):
    fake, options = sys.modules["ray"], []
    remote = fake.remote
    monkeypatch.setattr(fake, "cluster_resources", lambda: there)
    monkeypatch.setattr(fake, "remote", lambda **given: options.append(given) or remote(**given))
    assert dict(on_ray(lambda word: "", {"x": ("good",)}, Cluster(2))) == {"x": ""}
    assert [given["num_gpus"] for given in options] == [taken]


def test_without_ray_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"softguard\[study\]"):
        list(on_ray(lambda: "", {"x": ()}, Cluster(2)))


def test_where_an_error_arose_is_in_its_line():
    with pytest.raises(ConfigError) as caught:
        load_judge("nobody")
    assert what_went_wrong(caught.value).startswith("ConfigError: expected")
    assert ".py:" in what_went_wrong(caught.value)


@pytest.mark.parametrize("more", [{"workers": 2}, {"address": "auto"}, {}])
def test_several_runs_need_a_suite(more, tmp_path):
    with pytest.raises(ConfigError, match="add --suite"):
        commands.evaluate([tmp_path, tmp_path / "b"], **more)


def test_the_command_shows_all_students_and_fails_where_one_did(runs, capsys, monkeypatch):
    import typer

    (first, second, broken), data = runs
    monkeypatch.setattr(commands, "fetch_missing", lambda *args, **options: None)
    commands.evaluate([first, second], suite="malicious_instruct", judge="refusal", data_dir=data)
    shown = capsys.readouterr()
    assert "MaliciousInstruct" in shown.out
    assert shown.out.count("Student") >= 2
    with pytest.raises(typer.Exit):
        commands.evaluate([first, broken], suite="malicious_instruct", judge="refusal", data_dir=data)
    assert str(broken.name) in capsys.readouterr().err
