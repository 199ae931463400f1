"""What the workers of `test_drafting` load: a tiny model, and a guard that kills its worker once or is gone."""

import os
import signal
from pathlib import Path

from softguard.core import Verdict
from softguard.errors import SourceError
from softguard.teacher import GuardedSystem, TeacherCache, TeacherSettings
from tests.fakes import KeywordGuard, tiny_model

SETTINGS = TeacherSettings(max_new_tokens=6)


class Deadly(KeywordGuard):
    """Kills its process at the first verdict of all, when the drafts of a shard are there; notes who judged each shard."""

    def __init__(self, marks: Path) -> None:
        super().__init__("zz")
        self._marks = marks

    def judge(self, conversations):
        try:
            (self._marks / "killed").touch(exist_ok=False)
        except FileExistsError:
            (self._marks / f"{os.getpid()}-{abs(hash(conversations[0].prompt))}").touch()
            return super().judge(conversations)
        os.kill(os.getpid(), signal.SIGKILL)


class Gone(KeywordGuard):
    def judge(self, conversations):
        return [Verdict(ungraded="127.0.0.1: unreachable") for _ in conversations]


def worker_cache(root: str, marks: str, kind: str = "deadly") -> TeacherCache:
    if kind == "absent":
        raise SourceError("a model here", "none", "fetch it")
    guard = {"deadly": Deadly(Path(marks)), "gone": Gone("zz"), "other": KeywordGuard("zz")}[kind]
    system = GuardedSystem(tiny_model(seed=int(kind == "other")), guard)
    return TeacherCache(Path(root), system, SETTINGS, max_ungraded=1.0, shard_size=3, ask_again=False)
