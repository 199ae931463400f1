"""Two workers of a local Ray cluster make the records of one process, though one of them is killed in the middle."""

import builtins
import pickle
from collections import Counter
from pathlib import Path

import pytest
import torch

from softguard import errors
from softguard.core import Conversation
from softguard.errors import CompatibilityError, ConfigError, GuardError, SourceError
from softguard.models import sampling
from softguard.recipes import drafting
from softguard.recipes.cluster import HERE, Cluster
from softguard.recipes.drafting import fill_on_workers
from softguard.teacher import GuardedSystem, TeacherCache
from softguard.teacher import cache as caching
from tests.fakes import KeywordGuard, tiny_model
from tests.unit.recipes.worker_teacher import SETTINGS, worker_cache

SETS = [
    [Conversation.from_prompt(f"{'zz' if i % 2 else 'aa'} {name} {i}") for i in range(count)]
    for name, count in (("first", 10), ("second", 2))
]
ROOT = Path(__file__).parents[3]


def view(folder: Path, guard=None) -> TeacherCache:
    """This process's view of a cache."""
    return TeacherCache(folder, GuardedSystem(tiny_model(), guard or KeywordGuard("zz")), SETTINGS, shard_size=3)


def records(cache: TeacherCache):
    return [r for prompts in SETS for r in cache.records([c.prompt for c in prompts], prompts)]


@pytest.fixture(scope="module")
def cluster():
    """Two workers that stay for the tests of this file."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'src'}")
        two = Cluster(workers=2)
        with two.connected():
            yield two
        assert not ray.is_initialized()


@pytest.fixture
def folders(tmp_path):
    for name in ("cache", "marks"):
        (tmp_path / name).mkdir()
    return tmp_path / "cache", (str(tmp_path / "cache"), str(tmp_path / "marks")), tmp_path / "marks"


def test_a_worker_killed_in_the_middle_loses_nothing(cluster, folders, tmp_path, monkeypatch):
    folder, arguments, marks = folders
    cache, told = view(folder), []
    fill_on_workers(worker_cache, arguments, cache, SETS, cluster, progress=lambda *given: told.append(given))
    judged = Counter(path.name.split("-")[0] for path in marks.glob("*-*"))
    assert (marks / "killed").exists()
    assert judged.total() == 5  # four shards of ten prompts and one of two; the killed one was made again
    assert told == [(done, 5) for done in range(6)]

    for module in (caching, sampling):
        monkeypatch.setattr(module, "sample", lambda *a, **k: pytest.fail("sampled again"))
    found = records(cache)
    monkeypatch.undo()
    alone = records(view(tmp_path / "alone"))
    assert [(r.id, r.response_ids, r.alpha) for r in found] == [(r.id, r.response_ids, r.alpha) for r in alone]
    for one, other in zip(found, alone, strict=True):
        torch.testing.assert_close(one.states, other.states, rtol=0, atol=0.02)
        assert one.log_prob == pytest.approx(other.log_prob, abs=1e-3)
    names = [{p.name for p in where.rglob("shard-*")} for where in (folder, tmp_path / "alone")]
    assert names[0] == names[1]


def test_only_what_is_lacking_is_made(cluster, folders, monkeypatch):
    folder, arguments, marks = folders
    (marks / "killed").touch()
    cache = view(folder)
    cache.fill(SETS[0], 0, 2)
    fill_on_workers(worker_cache, arguments, cache, SETS, cluster)
    assert len(list(marks.glob("*-*"))) == 3
    monkeypatch.setattr(Cluster, "connected", lambda self: pytest.fail("nothing is lacking"))
    fill_on_workers(worker_cache, arguments, cache, SETS, cluster)
    next(folder.rglob("shard-*.safetensors")).unlink()
    with pytest.raises(pytest.fail.Exception):
        fill_on_workers(worker_cache, arguments, cache, SETS, cluster)


def test_what_goes_wrong_in_a_worker_is_said_here(cluster, folders, tmp_path, monkeypatch):
    folder, arguments, marks = folders
    (marks / "killed").touch()
    with pytest.raises(SourceError, match="expected a model here; found none; fetch it"):
        fill_on_workers(worker_cache, (*arguments, "absent"), view(folder), SETS, cluster)
    with pytest.raises(CompatibilityError, match="another model, guard"):
        fill_on_workers(worker_cache, (*arguments, "other"), view(folder), SETS, cluster)
    with pytest.raises(GuardError, match=r"of 10 so far \(127.0.0.1: unreachable\)"):
        fill_on_workers(worker_cache, (*arguments, "gone"), view(folder), SETS, cluster)
    monkeypatch.setattr(drafting, "ARRIVAL_S", 0.3)
    with pytest.raises(CompatibilityError, match="SOFTGUARD_CACHE"):
        fill_on_workers(worker_cache, (str(tmp_path / "elsewhere"), str(marks)), view(folder), SETS, cluster)


def test_a_task_that_no_machine_has_room_for(cluster, folders):
    folder, arguments, _ = folders
    with pytest.raises(ConfigError, match="at least 1 GPU"):
        fill_on_workers(worker_cache, arguments, view(folder), SETS, cluster, gpus=1)


def test_without_ray(folders, monkeypatch):
    folder, arguments, _ = folders
    real = builtins.__import__

    def without(name, *rest, **named):
        if name == "ray":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"Ray, .* it is not installed; pip install 'softguard\[study\]'"):
        fill_on_workers(worker_cache, arguments, view(folder), SETS, Cluster(workers=2))


def test_one_worker_here_needs_no_ray():
    assert HERE.is_this_process
    assert not Cluster(2).is_this_process
    assert not Cluster(1, "auto").is_this_process


@pytest.mark.parametrize("kind", [c for c in vars(errors).values() if isinstance(c, type)])
def test_an_error_crosses_processes(kind):
    error = kind("a thing", "another", "change it")
    same = pickle.loads(pickle.dumps(error))
    assert (type(same), str(same)) == (kind, "expected a thing; found another; change it")
