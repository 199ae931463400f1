"""Lineage: what a guard is made of, to tell whether a judge is independent of the guard that taught.

One idea: names lie (a calibrated guard is called otherwise, an ensemble hides its members) and fingerprints do not. A format is a
lineage too: two sizes of one family were trained on one maker's labels.
"""

from softguard.core import Guard


def lineage(guard: Guard) -> frozenset[str]:
    """Return the fingerprints of a guard and of all guards that it asks, and the names of their families."""
    family = getattr(guard, "family", None)
    own = {guard.fingerprint, *([f"family:{family.name}"] if family is not None else [])}
    return frozenset(own).union(*(lineage(member) for member in getattr(guard, "members", ())))
