"""Numbers that JSON lacks."""

import math


def finite(value: float) -> float | None:
    """Return a number that JSON can hold: infinities at +-1e9, NaN as null."""
    return None if math.isnan(value) else max(-1e9, min(1e9, value))
