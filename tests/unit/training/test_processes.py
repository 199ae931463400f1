"""Two processes that Accelerate joins over gloo make the W of one, and one of them writes."""

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from softguard.core.processes import SIZES, Processes, processes
from softguard.errors import ConfigError
from softguard.training import TrainingConfig, check_shares, fitness


def launch(folder, count):
    """Start the jobs in `count` processes, as `torchrun` does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "tests.unit.training.jobs", str(folder)]
    started = []
    for i in range(count):
        with (folder / f"errors-{i}.txt").open("w") as errors:
            own = {**common, "RANK": str(i), "LOCAL_RANK": str(i)}
            started.append(subprocess.Popen(command, env=own, stderr=errors, cwd=Path(__file__).parents[3]))
    return started


def ended(folder, running):
    """Return what each process found."""
    for i, process in enumerate(running):
        assert process.wait(timeout=240) == 0, (folder / f"errors-{i}.txt").read_text()[-4000:]
    found = [json.loads((folder / f"found-{i}.json").read_text()) for i in range(len(running))]
    return [(torch.load(folder / f"W-{i}.pt"), there) for i, there in enumerate(found)]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One process, and two: (W by job, what else was found), by process; and the folders."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    running = [launch(one, 1), launch(two, 2)]
    try:
        return ended(one, running[0])[0], ended(two, running[1]), one, two
    finally:
        for process in running[0] + running[1]:
            process.kill()


def test_two_processes_make_the_same_w_as_one(done):
    (alone, found), pair, _, _ = done
    assert found["count"] == 1
    for tensors, there in pair:
        assert there["count"] == 2
        for name, w in tensors.items():
            assert torch.equal(w, pair[0][0][name]), name
            torch.testing.assert_close(w, alone[name], rtol=0, atol=2e-4, msg=lambda said, name=name: f"{name}: {said}")
    pairs = [("whole", "ppo"), ("whole", "share"), ("ppo", "share")]
    assert min(float((alone[a] - alone[b]).abs().max()) for a, b in pairs) > 0.01  # there is something to tell apart


def test_figures_are_means_over_all_processes(done):
    (_, found), pair, _, _ = done
    for name, history in found["histories"].items():
        for _, there in pair:
            for row, other in zip(history, there["histories"][name], strict=True):
                assert row.keys() == other.keys()
                assert {k: v for k, v in other.items() if k != "seconds"} == pytest.approx(
                    {k: v for k, v in row.items() if k != "seconds"}, rel=1e-3, abs=1e-3
                ), name
    graded = [row["on_policy_ungraded"] for row in found["histories"]["ppo"]]
    assert all(0 < share < 1 for share in graded)


def test_a_kill_changes_nothing(done):
    _, pair, _, _ = done
    for tensors, there in pair:
        assert there["failures"]["kill"].startswith("Stop")
        assert torch.equal(tensors["whole"], tensors["killed"])
        losses = [[row["loss"] for row in there["histories"][name]] for name in ("whole", "killed")]
        assert losses[0] == losses[1]


def test_only_the_main_process_writes_a_run_and_each_draft_is_written_once(done):
    _, ((_, main), (_, other)), _, two = done
    drafts = [path for path in other["written"] if "/cache/teacher/" in path and "settings.json" not in path]
    assert [path for path in other["written"] if not path.startswith((str(two / "cache"), str(two / "drafts-1")))] == []
    assert drafts  # the other process samples, too
    shards = Counter(path for path in [*main["written"], *drafts] if "/cache/teacher/" in path and "shard" in path)
    assert len(shards) >= 3 * 8
    assert set(shards.values()) == {1}
    written = Counter(path for path in main["written"] if path.startswith(str(two / "run")))
    assert written[str(two / "run" / "operating_point.json")] == 1
    assert not list(two.rglob("*.partial"))
    assert main["told"]
    assert other["told"] == []


def test_the_whole_recipe_makes_the_same_adapter(done):
    _, _, one, two = done
    name = "run/adapter/adapter_model.safetensors"
    a, b = load_file(one / name), load_file(two / name)
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=2e-4)
    provenance = [json.loads((folder / "run" / "provenance.json").read_text()) for folder in (one, two)]
    assert [p["hardware"]["processes"] for p in provenance] == [1, 2]


def test_what_cannot_be_shared_or_differs_is_an_error_in_every_process(done):
    (_, alone), pair, _, two = done
    assert alone["failures"]["odd"] == alone["failures"]["other"] == ""
    for _, there in pair:
        assert there["failures"]["odd"].startswith("ConfigError: expected training.accumulation that 2 processes divide; found 3")
        assert there["failures"]["other"].startswith("CompatibilityError: expected the same drafts")
        assert "process 1;" in there["failures"]["other"]
    assert not (two / "odd").exists()


def test_shares_lie_one_after_another_and_leave_nothing_out():
    items = list(range(6))
    for count in (1, 2, 3):
        shares = [Processes(i, count).share(items) for i in range(count)]
        assert [x for share in shares for x in share] == items
        assert {len(share) for share in shares} == {6 // count}


def test_processes_that_do_not_divide_the_passes(monkeypatch):
    monkeypatch.setattr(fitness, "processes", lambda: Processes(1, 4))
    check_shares(TrainingConfig(accumulation=8))
    with pytest.raises(ConfigError, match=r"4 processes divide; found 6; set it to 4 .*a step has 96 prompts"):
        check_shares(TrainingConfig(accumulation=6))


def test_a_job_that_nobody_launched_is_one_process(monkeypatch):
    for name in SIZES:
        monkeypatch.delenv(name, raising=False)
    processes.cache_clear()
    alone = processes()
    assert alone == Processes()
    items = [object()]
    assert alone.gather(items) == alone.share(items) == items
    assert alone.from_main(lambda: items) is items
    with alone.main_first():
        alone.wait()
    alone.leave()
