"""Attack wrappers over any suite, one small file each; their texts are our own words.

They show how far a system's refusals hold when the form of a request changes. They are fixed templates: an attacker who adapts to
the system does better, so that their success is a floor. To add one, add a file here that files a `Wrapper` under
`WRAPPERS.register("name")`; third parties use the entry-point group `softguard.wrappers`. Must not import models or systems.
"""

from softguard.evaluation.wrappers.wrapper import PLAIN, WRAPPERS, Wrap, Wrapper, wrappers_at_hand, wrappers_named
from softguard.registry import discover

discover(__name__, list(__path__))

__all__ = ["PLAIN", "WRAPPERS", "Wrap", "Wrapper", "wrappers_at_hand", "wrappers_named"]
