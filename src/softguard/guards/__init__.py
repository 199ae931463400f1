"""Guards: what judges (prompt, response) pairs. One file a guard; `Unknown is not zero`: what cannot be judged is ungraded.

To add a guard, add a file here with a factory under `@GUARDS.register("name")`, or under `@GUARD_KINDS.register("kind")` where it
needs settings; a generative one needs a `Family` only (`family`). Third parties use the entry-point groups `softguard.guards`,
`softguard.guard_kinds` and `softguard.guard_families`. May import models, sources, core, registry and errors; must not import
data, runs or anything above.
"""

from softguard.guards.lineage import lineage
from softguard.guards.measuring import LabelledPair, evaluate_guard
from softguard.guards.mini_training import MiniTraining, train_mini, train_on_pairs
from softguard.guards.registry import GUARD_KINDS, GUARDS, GuardFactory, guard_sources, load_guard, make_guard
from softguard.registry import discover

discover(__name__, list(__path__))

__all__ = [
    "GUARDS",
    "GUARD_KINDS",
    "GuardFactory",
    "LabelledPair",
    "MiniTraining",
    "evaluate_guard",
    "guard_sources",
    "lineage",
    "load_guard",
    "make_guard",
    "train_mini",
    "train_on_pairs",
]
