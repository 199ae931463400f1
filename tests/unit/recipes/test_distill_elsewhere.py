"""The whole recipe with drafts that are not drawn in this process: by workers, and by a server."""

import json
import threading

import pytest

from softguard.core import Conversation
from softguard.data import PromptRow
from softguard.errors import CompatibilityError, ConfigError
from softguard.models import AUTO, sampling, use_kernel
from softguard.recipes import distill as distilling
from softguard.recipes.cluster import Cluster
from softguard.recipes.config import load_config
from softguard.recipes.prompts import RunPrompts
from softguard.teacher import cache as caching
from tests.fakes import tiny_model
from tests.unit.guards.fake_server import Answer, serving

SMALL = [
    "training.steps=2",
    "training.batch_size=2",
    "teacher.max_new_tokens=4",
    "adapter.num_virtual_tokens=3",
    "teacher.guard=keyword",
]


def rows(split):
    labels = ("harmful", "look_alike", "benign")
    return [
        PromptRow(f"{split}-{source}-{label}{i}", f"{label} {split} {source} {i}", label, source, split=split)
        for source in ("softguard", "other")
        for label in labels
        for i in range(2)
        if split == "train" or source == "softguard"
    ]


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The recipe on a tiny model and its prompts."""
    monkeypatch.setenv("SOFTGUARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(distilling, "run_prompts", lambda config, data_dir: RunPrompts(rows("train"), rows("validation"), []))
    monkeypatch.setattr(distilling, "load_base", load_tiny)
    return tmp_path


def load_tiny(config):
    lm = tiny_model()
    if config.model.attention != AUTO:
        use_kernel(lm.network, config.model.attention)
    return lm


def test_workers_make_every_draft_of_a_run(tiny, monkeypatch):
    asked = []

    def fill(make, arguments, cache, sets, cluster, gpus, progress):
        view = make(*arguments)
        assert view.key == cache.key
        assert view is not cache
        asked.append((cluster, gpus, sum(map(len, sets))))
        for prompts in sets:
            assert all(isinstance(c, Conversation) for c in prompts)
            for stem, shard in cache.lacking(prompts).items():
                assert view.fill(shard) == {}
                assert cache.has(stem)
        drawn = caching.sample
        monkeypatch.setattr(caching, "sample", lambda *a, **k: pytest.fail("a draft that no worker made"))
        assert drawn is sampling.sample

    monkeypatch.setattr(distilling, "fill_on_workers", fill)
    run = distilling.distill(load_config(None, SMALL), tiny / "run", cluster=Cluster(2))
    assert run.stages() == ["train"]
    assert asked == [(Cluster(2), 0, 12 + 4)]
    monkeypatch.undo()


def test_one_process_asks_no_workers(tiny, monkeypatch):
    monkeypatch.setattr(distilling, "fill_on_workers", lambda *a, **k: pytest.fail("workers"))
    assert distilling.distill(load_config(None, SMALL), tiny / "run").stages() == ["train"]


def drawing(lm):
    """Return the answers of a server that runs a model."""
    lock = threading.Lock()

    def answer(path, request, number):
        given = {"max_new_tokens": 4, "temperature": 1.0, "seed": request["seed"], "refusal_token": 5}
        with lock:
            ids = list(sampling.sample(lm, [request["prompt"]], ["k"], **given)[0].ids)
            text = lm.tokenizer.decode(ids, skip_special_tokens=True)
        end = "stop" if ids[-1] in lm.stop_ids else "length"
        return Answer({"choices": [{"text": text, "finish_reason": end, "token_ids": ids}]})

    return answer


def test_a_run_says_which_server_drew_and_keeps_to_it(tiny, monkeypatch):
    with serving(drawing(tiny_model())) as server:
        path = tiny / "server.toml"
        path.write_text(f'url = "{server.url}"\nmodel = "m"\n')
        config = load_config(None, [*SMALL, f"teacher.server={path}"])
        with monkeypatch.context() as patch:
            patch.setattr(distilling, "train", lambda *a: pytest.fail("stopped"))
            with pytest.raises(pytest.fail.Exception, match="stopped"):
                distilling.distill(config, tiny / "run")
        assert len(server.requests) == 16
        path.write_text(f'url = "{server.url}"\nmodel = "other"\n')
        with pytest.raises(CompatibilityError, match="the draft server that the run"):
            distilling.distill(config, tiny / "run")
        path.write_text(f'url = "{server.url}"\nmodel = "m"\n[client]\nattempts = 1\n')
        run = distilling.distill(config, tiny / "run")
        assert len(server.requests) == 16
    assert run.config["teacher"]["server"] == str(path)
    found = json.loads((run.path / "provenance.json").read_text())["draft_server"]
    assert found == {"url": server.url, "model": "m", "prompt": "ids", "body": {}}


def test_a_server_that_is_none_is_said_before_anything_is_drawn(tiny):
    with pytest.raises(ConfigError, match="a server that draws the drafts"):
        distilling.distill(load_config(None, [*SMALL, "teacher.server=model"]), tiny / "run")
    assert not (tiny / "cache" / "teacher").exists()
