"""What `evaluate --suite` was asked for, checked before anything is fetched or loaded."""

from dataclasses import dataclass, field

from softguard.core.ungraded import MAX_UNGRADED_SHARE
from softguard.errors import ConfigError
from softguard.evaluation.attacks import Budget, attacks_named
from softguard.evaluation.attacks.attack import check_budget
from softguard.evaluation.divergence import MIN_DRAWS
from softguard.evaluation.judges import JUDGES, check_judge
from softguard.evaluation.suites import suites_named
from softguard.evaluation.wrappers import wrappers_named
from softguard.guards import GUARDS

SYSTEMS = ("base", "guarded", "system_prompt", "student")


@dataclass(frozen=True)
class SuiteRequest:
    """What to measure.

    Attributes:
        suites: names and groups, comma-separated.
        wrappers: names, comma-separated; `all` for every one, empty for none.
        judges: references, comma-separated; the first gives the headline. Empty: see
            `reference_judge.default_judges`.
        systems: names, comma-separated; the guarded system needs the base model's answers.
        limit: at most so many prompts of each label of a suite, drawn with the seed of the run's data; 0 takes all.
        shard: (i, n), the i-th of n parts of the prompts, from 1.
        max_new_tokens: of an answer; 0 takes the run's own.
        draws: drafts of each prompt for the divergence from the guarded system; 0 leaves it out.
        attacks: white-box attacks on harmful prompts, comma-separated; `all` for every one, empty for none.
        budget: of an attack, for each prompt and system.
        max_ungraded: where a judge, or the guard, leaves a larger share ungraded, the evaluation stops.
    """

    suites: str
    wrappers: str = ""
    judges: str = ""
    systems: str = ",".join(SYSTEMS)
    limit: int = 0
    shard: tuple[int, int] = (1, 1)
    max_new_tokens: int = 0
    draws: int = 0
    attacks: str = ""
    budget: Budget = field(default_factory=Budget)
    max_ungraded: float = MAX_UNGRADED_SHARE

    def checked(self) -> "SuiteRequest":
        """Return the request, checked before anything is fetched or loaded.

        Raises:
            ConfigError: an unknown name, a shard or a number of drafts that cannot be.
        """
        suites_named(self.suites)
        wrappers_named(self.wrappers)
        attacks_named(self.attacks)
        check_budget(self.budget)
        for judge in filter(None, self.judges.split(",")):
            check_judge(judge.strip())
        self.system_names()
        index, of = self.shard
        if not 1 <= index <= of:
            raise ConfigError("a shard i/n with 1 <= i <= n", f"{index}/{of}", "write --shard 1/4")
        if 0 < self.draws < MIN_DRAWS:
            raise ConfigError(f"0 or at least {MIN_DRAWS} drafts", str(self.draws), f"write --draws {MIN_DRAWS}")
        return self

    def fetched(self) -> list[str]:
        """Return the guards among the judges, whose weights can be fetched with a bar; a rating model is left to its loader."""
        named = [j.strip() for j in self.judges.split(",") if j.strip()]
        guards = [j.partition("@")[2] if j.partition("@")[0] in JUDGES else j for j in named]
        return [g for g in guards if g.endswith(".toml") or g.partition("@")[0] in GUARDS]

    def system_names(self) -> list[str]:
        """Return the systems to measure, in the table's order.

        Raises:
            ConfigError: an unknown one, or the guarded system without the base model.
        """
        given = {w.strip() for w in self.systems.split(",") if w.strip()}
        unknown = given - set(SYSTEMS)
        if unknown or not given:
            raise ConfigError(f"systems among {', '.join(SYSTEMS)}", ", ".join(sorted(unknown)) or "none", "choose among these")
        if "guarded" in given and "base" not in given:
            raise ConfigError("the base model with the guarded system", "guarded alone", "add base: its answers are the drafts")
        return [s for s in SYSTEMS if s in given]
