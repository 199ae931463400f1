"""What a suite is: prompts by name, with all that a reader must know to trust a figure on them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from softguard.data import PromptRow
from softguard.errors import ConfigError, MissingDataError
from softguard.evaluation.suites.harness_task import HarnessTask
from softguard.registry import Registry

Group = Literal["safety", "over-refusal", "usefulness", "safety-full", "usefulness-full"]


def each_its_own(row: PromptRow) -> str:
    """Return a family for each prompt: none is a variant of another."""
    return row.id


@dataclass(frozen=True)
class Suite:
    """A set of prompts to be evaluated on.

    Attributes:
        title: what a reader calls it.
        source: paper and home.
        licence: of the prompts.
        size: how many prompts it has, as its authors count them.
        metric: what its authors report on it, and how ours differs.
        load: gives the rows, from a folder of public sets or its home; where judges grade the answers, without rows about minors.
        groups: the names under which `--suite` takes it with others.
        family: the label that variants of one prompt share; intervals and tests are over families.
        seen_in_training: a warning where runs may train on it.
        task: of lm-evaluation-harness, where that grades the answers; None where judges do.
    """

    title: str
    source: str
    licence: str
    size: int
    metric: str
    load: Callable[[Path | None], list[PromptRow]]
    groups: tuple[Group, ...]
    family: Callable[[PromptRow], str] = each_its_own
    seen_in_training: str = ""
    task: HarnessTask | None = None

    @property
    def has_families(self) -> bool:
        """Whether prompts of this suite are variants of each other."""
        return self.family is not each_its_own


SUITES: Registry[Suite] = Registry("suite", "softguard.suites")


def suites_named(given: str) -> list[str]:
    """Return the names of suites that a comma-separated list of suites and groups means, each once, in its order.

    Raises:
        ConfigError: no such suite or group, or none at all.
    """
    names: dict[str, None] = {}
    for word in filter(None, (w.strip() for w in given.split(","))):
        members = [name for name in SUITES if word in SUITES.get(name).groups]
        for name in members or [word]:
            SUITES.get(name)
            names[name] = None
    if not names:
        raise ConfigError("a suite or a group of suites", repr(given), f"choose among {', '.join((*get_args(Group), *SUITES))}")
    return list(names)


def suites_at_hand(given: str, data_dir: Path | None) -> tuple[dict[str, list[PromptRow]], list[str]]:
    """Return the rows of the suites that a list means, by name, and the names of those of a group that are nowhere to be had.

    Raises:
        ConfigError: see `suites_named`.
        DataError: a file that is not what it has to be.
        MissingDataError: a suite that is named itself is nowhere to be had, or all of them.
    """
    by_name = {word.strip() for word in given.split(",")}
    rows: dict[str, list[PromptRow]] = {}
    lacking: dict[str, MissingDataError] = {}
    for name in suites_named(given):
        try:
            rows[name] = SUITES.get(name).load(data_dir)
        except MissingDataError as error:
            if name in by_name:
                raise
            lacking[name] = error
    if lacking and not rows:
        raise next(iter(lacking.values()))
    return rows, list(lacking)
