"""Judges of answers: guards, refusal patterns, StrongREJECT's rubric. By reference: NAME, NAME@WHAT, or any guard's reference.

To add one, add a file here with a factory under `JUDGES.register("name")`; third parties use the entry-point group
`softguard.judges`. May import guards and models; must not import data or anything above.
"""

from softguard.errors import ConfigError
from softguard.evaluation.judgement import Judgement
from softguard.evaluation.judges.guard import GuardJudge
from softguard.evaluation.judges.judge import JUDGES, Answered, Judge
from softguard.guards import GUARDS, load_guard
from softguard.registry import discover

discover(__name__, list(__path__))

__all__ = ["JUDGES", "Answered", "GuardJudge", "Judge", "Judgement", "check_judge", "load_judge"]


def check_judge(reference: str) -> None:
    """Check a judge's name before anything is fetched or loaded.

    Raises:
        ConfigError: neither a judge nor a guard is called so.
    """
    name = reference.partition("@")[0]
    if not reference.endswith(".toml") and name not in JUDGES and name not in GUARDS:
        known = ", ".join([*JUDGES, *GUARDS])
        raise ConfigError(f"a judge or guard among {known}", repr(reference), "choose one of these")


def load_judge(reference: str) -> Judge:
    """Return the judge that `reference` names.

    Raises:
        ConfigError: no such judge or guard.
        SourceError: its weights cannot be had.
    """
    check_judge(reference)
    name, _, where = reference.partition("@")
    return JUDGES.get(name)(where) if name in JUDGES else GuardJudge(load_guard(reference))
