"""What a white-box attack is, what it may spend, and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from softguard.errors import ConfigError
from softguard.evaluation.attacks.victim import Place, Victim
from softguard.registry import Registry


@dataclass(frozen=True)
class Budget:
    """What an attack may spend on one prompt.

    Attributes:
        steps: at most so many.
        seconds: no step is begun, and no batch of candidates, after so many. A result that time cut short depends on the machine.
        candidates: variants tried in a step, where an attack tries any.
        tokens: ids, or vectors, added to the request.
    """

    steps: int = 50
    seconds: float = 120.0
    candidates: int = 64
    tokens: int = 20

    def below(self, other: "Budget") -> bool:
        """Return whether this one allows less work than `other`; seconds apart, since machines differ."""
        return self.steps < other.steps or self.candidates < other.candidates or self.tokens < other.tokens


@dataclass(frozen=True)
class Found:
    """The best that an attack found for one prompt.

    Attributes:
        place: where it stands.
        text: what is added to the request, whose tokens are the ids that were scored; empty where vectors are added.
        vectors: k x D, as they go into the network; None where a text is added.
        loss_before: of the fillers that it began with.
        loss: of what it found; never above `loss_before`.
        steps: taken.
        seconds: spent.
        reached: greedy decoding begins with the opening and is not refused, so that it stopped.
        out_of_time: the seconds ended it.
    """

    place: Place
    text: str
    vectors: Tensor | None
    loss_before: float
    loss: float
    steps: int
    seconds: float
    reached: bool
    out_of_time: bool


@dataclass(frozen=True)
class Attack:
    """A white-box attack.

    Attributes:
        title: what a reader calls it.
        source: who described it.
        reference: the budget of those who did; what spends less is called reduced in every table.
        run: (victim, request, budget, seed) -> what was found. The same seed gives the same, unless time cut it short.
    """

    title: str
    source: str
    reference: Budget
    run: Callable[[Victim, str, Budget, int], Found]

    def shown_as(self, name: str, budget: Budget) -> str:
        """Return the name in tables."""
        return f"{name}_reduced" if budget.below(self.reference) else name


ATTACKS: Registry[Attack] = Registry("white-box attack", "softguard.attacks")


def attacks_named(given: str) -> list[str]:
    """Return the names of attacks that a comma-separated list means; `all` is every one. Empty for none.

    Raises:
        ConfigError: no such attack.
    """
    names: dict[str, None] = {}
    for word in filter(None, (w.strip() for w in given.split(","))):
        for name in ATTACKS if word == "all" else [word]:
            ATTACKS.get(name)
            names[name] = None
    return list(names)


def check_budget(budget: Budget) -> None:
    """Raise where a budget allows nothing.

    Raises:
        ConfigError: a number that is not above 0.
    """
    if budget.steps < 1 or budget.seconds <= 0 or budget.candidates < 1 or budget.tokens < 1:
        raise ConfigError("steps, seconds, candidates and tokens above 0", repr(budget), "raise them")
