"""The reference judge of our own evaluations: a linear guard that `softguard guard train-judge` leaves in the cache.

It shares neither network nor labels with `mini` (`guards/linear`), so that what it says of `mini`'s students is not agreement.
"""

from pathlib import Path

from softguard.errors import SourceError
from softguard.evaluation.judges.guard import GuardJudge
from softguard.evaluation.judges.judge import JUDGES
from softguard.guards import load_guard
from softguard.sources import cache_dir


def reference_judge_path() -> Path:
    """Return where the reference judge lies, whether it is there or not."""
    return cache_dir() / "judges" / "reference.toml"


@JUDGES.register("reference")
def reference(where: str) -> GuardJudge:
    """Return the reference judge.

    Raises:
        SourceError: it was not trained here; the message has the command.
    """
    path = reference_judge_path()
    if not path.exists():
        todo = "run `softguard guard train-judge --data-dir FOLDER`: it takes seconds"
        raise SourceError(f"the reference judge at {path}", "none", todo)
    return GuardJudge(load_guard(str(path)))
