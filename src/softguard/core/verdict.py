"""A guard's answer."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from softguard.errors import DataError


@dataclass(frozen=True)
class Verdict:
    """What a guard says of one (prompt, response) pair: a soft `p_safe` in [0, 1], or `ungraded` with the reason.

    Unknown is not zero: exactly one of the two is set, and an ungraded pair is counted and shown, never called safe.
    `truncated`: the guard read only the beginning of the response, so harm after its limit went unseen.
    """

    p_safe: float | None = None
    categories: Mapping[str, float] = field(default_factory=dict)
    ungraded: str | None = None
    truncated: bool = False

    def __post_init__(self) -> None:
        """Check that the verdict is one.

        Raises:
            DataError: both or neither of `p_safe` and `ungraded`, or a `p_safe` outside [0, 1].
        """
        if (self.p_safe is None) == (self.ungraded is None):
            raise DataError("either p_safe or ungraded", f"p_safe={self.p_safe}, ungraded={self.ungraded!r}", "set one")
        if self.p_safe is not None and not (math.isfinite(self.p_safe) and 0.0 <= self.p_safe <= 1.0):
            raise DataError("p_safe in [0, 1]", str(self.p_safe), "correct the guard's score rule")
