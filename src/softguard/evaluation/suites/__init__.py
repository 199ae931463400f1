"""Suites by name, one small file each: source, licence, size, and the metric that its authors use.

To add one, add a file here that files a `Suite` under `SUITES.register("name")`; third parties use the entry-point group
`softguard.suites`. Must not import models or systems: a suite is prompts and what is known of them.
"""

from softguard.evaluation.suites.suite import SUITES, Suite, suites_at_hand, suites_named
from softguard.registry import discover

discover(__name__, list(__path__))

__all__ = ["SUITES", "Suite", "suites_at_hand", "suites_named"]
