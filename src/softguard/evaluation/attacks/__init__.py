"""White-box attacks: what is added to a request is optimised against the weights of the system that is asked.

One idea: a system is given to its attacker as a `Victim`, which renders a user's turn and gives gradients, so that this room
knows models and no systems; recipes make the victims. Every attack aims at an opening of ours that promises an answer and says
nothing else, and no text of a harmful answer is ever a target. To add one, add a file here that files an `Attack` under
`ATTACKS.register("name")`; third parties use the entry-point group `softguard.attacks`.
"""

from softguard.evaluation.attacks.attack import ATTACKS, Attack, Budget, Found, attacks_named
from softguard.evaluation.attacks.victim import Victim
from softguard.registry import discover

discover(__name__, list(__path__))

__all__ = ["ATTACKS", "Attack", "Budget", "Found", "Victim", "attacks_named"]
