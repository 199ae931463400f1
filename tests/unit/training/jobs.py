"""What `test_processes` runs in one process and in two: `python -m tests.unit.training.jobs FOLDER`, as a launcher starts it."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

from softguard.adapters import SoftPrompt, SoftPromptConfig
from softguard.core import Conversation, Verdict
from softguard.core.processes import processes
from softguard.data import PromptRow
from softguard.errors import SoftguardError
from softguard.objectives import OBJECTIVES
from softguard.objectives.decision_split import DecisionSplit, DecisionSplitConfig
from softguard.recipes import distill as distilling
from softguard.recipes import teacher_cache as teacher_caching
from softguard.recipes.config import load_config
from softguard.recipes.prompts import RunPrompts
from softguard.registry import config_class
from softguard.teacher import GuardedSystem, TeacherCache, TeacherSettings
from softguard.training import Example, TrainingConfig, train
from tests.fakes import KeywordGuard, tiny_model

CONFIG = TrainingConfig(steps=5, batch_size=4, accumulation=4, learning_rate=0.05, validate_every=2, warmup_steps=1)
PROMPTS = [f"zz{i}" for i in range(4)] + [f"aa{i}" for i in range(4)]
ROWS = [
    PromptRow(f"{split}-{source}-{label}{i}", f"{word} {split} {source} {i}", label, source, split=split)
    for split in ("train", "validation")
    for source in ("softguard", "other")
    for label, word in (("harmful", "zz"), ("look_alike", "zx"), ("benign", "aa"))
    for i in range(3)
    if split == "train" or source == "softguard"
]


class Stop(Exception):
    pass


class Stopping(DecisionSplit):
    """Fails at the n-th pass, in each process: a kill that all of them see in the same step."""

    def __init__(self, last=10**9):
        super().__init__(DecisionSplitConfig(ranking_weight=0.5))
        self._left = last

    def __call__(self, batch):
        self._left -= 1
        if self._left < 0:
            raise Stop
        return super().__call__(batch)


class Sparing:
    """Grades two of the prompts only, so that whole passes have nothing to learn from."""

    name = fingerprint = "sparing"

    def judge(self, conversations):
        share = [sum(c.isascii() for c in x.response) / max(1, len(x.response)) for x in conversations]
        known = [x.prompt in ("zz0", "zz1") for x in conversations]
        return [Verdict(p_safe=s) if k else Verdict(None, ungraded="other") for s, k in zip(share, known, strict=True)]


class Job:
    """The parts of a tiny training run."""

    def __init__(self, cache):
        self.lm = tiny_model()
        teacher = GuardedSystem(self.lm, KeywordGuard("zz"), "Sorry.")
        conversations = [Conversation.from_prompt(p) for p in PROMPTS]
        records = TeacherCache(cache, teacher, TeacherSettings(max_new_tokens=4)).records(PROMPTS, conversations)
        render = teacher.renderer.render
        pairs = zip(conversations, records, strict=True)
        self.examples = [Example(render(c), r, r.id.startswith("zz"), c) for c, r in pairs]
        self.refusal = [*teacher.renderer.encode_response("Sorry."), self.lm.turn_end_id]

    def train(self, folder, config=CONFIG, objective=None, examples=None):
        """Return W and the history."""
        adapter = SoftPrompt.create(SoftPromptConfig(num_virtual_tokens=3), self.lm, 0)
        given = self.examples if examples is None else examples
        prompts = [e.prompt for e in given]
        validation = (prompts[:4], prompts[4:], given[4:])
        weigher = GuardedSystem(self.lm, Sparing(), "Sorry.")
        rest = (given, validation, self.refusal, config, folder, None, weigher)
        result = train(self.lm, adapter, objective or Stopping(), *rest)
        return adapter.virtual_tokens().detach().clone(), result.history

    def on_policy(self, folder, name, **settings):
        factory = OBJECTIVES.get(name)
        config = CONFIG.model_copy(update={"on_policy_tokens": 4, **settings})
        given = {"max_new_tokens": 4} if not settings else {}
        return self.train(folder, config, factory(config_class(factory)(kind=name, **given)))


def distil(folder):
    """Run the whole recipe on a tiny model, and return W."""
    rows = [[r for r in ROWS if r.split == split] for split in ("train", "validation")]
    distilling.run_prompts = lambda config, data_dir: RunPrompts(*rows, [])
    distilling.load_base = lambda config: tiny_model()
    teacher_caching.TeacherCache = lambda *given, **named: TeacherCache(*given, **named, shard_size=4)
    small = ["steps=2", "batch_size=2", "accumulation=2", "learning_rate=0.05", "validate_every=1"]
    asked = ["model.attention=grouped", "teacher.guard=keyword", "teacher.max_new_tokens=4", "adapter.num_virtual_tokens=3"]
    config = load_config(None, [*asked, *(f"training.{s}" for s in small)])
    told = []
    for _ in range(2):  # the second time it is finished
        run = distilling.distill(config, folder, None, lambda stage, *rest: told.append(stage))
    assert run.stages() == ["train"]
    return sorted(set(told))


def failure(call):
    """Return how a call fails."""
    try:
        call()
    except (SoftguardError, Stop) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def run_all(folder):
    """Do every job of the tests, and write what came of it in this process."""
    written, place = [], os.replace
    os.replace = lambda source, target: (written.append(str(target)), place(source, target))
    index = processes().index
    os.environ["SOFTGUARD_CACHE"] = str(folder / "cache")
    job = Job(folder / f"drafts-{index}")
    tensors, histories, failures = {}, {}, {}
    tensors["whole"], histories["whole"] = job.train(folder / "whole")
    three_steps = 3 * CONFIG.accumulation // processes().count
    failures["kill"] = failure(lambda: job.train(folder / "killed", objective=Stopping(three_steps)))
    tensors["killed"], histories["killed"] = job.train(folder / "killed")
    tensors["ppo"], histories["ppo"] = job.on_policy(folder / "ppo", "ppo")
    tensors["share"], histories["share"] = job.on_policy(folder / "share", "forward_kl", on_policy_fraction=0.1)
    failures["odd"] = failure(lambda: job.train(folder / "odd", CONFIG.model_copy(update={"accumulation": 3})))
    other = [replace(e, record=replace(e.record, alpha=e.record.alpha * (1 - index))) for e in job.examples]
    failures["other"] = failure(lambda: job.train(folder / "other", examples=other))
    told = distil(folder / "run")
    torch.save(tensors, folder / f"W-{index}.pt")
    found = {"histories": histories, "failures": failures, "told": told, "written": written, "count": processes().count}
    (folder / f"found-{index}.json").write_text(json.dumps(found))
    processes().leave()


if __name__ == "__main__":
    run_all(Path(sys.argv[1]))
