"""When work stops for want of verdicts: the one rule of `distill`, `judge` and `evaluate --suite`.

Unknown is not zero, and a guard that is gone must not cost the hours that come before anybody looks.
"""

from collections import Counter
from collections.abc import Iterable

from softguard.errors import GuardError

MAX_UNGRADED_SHARE = 0.01
"""Above this share of ungraded items no figure has a headline, and work on them stops."""
FEW = 5
"""So many stop no job: a small file may hold an empty answer."""


def stop_where_ungraded(
    ungraded: int, of: int, reasons: Counter[str], what: str, todo: str, most: float = MAX_UNGRADED_SHARE, few: int = FEW
) -> None:
    """Raise where more than the share `most` of all is ungraded, and more than `few`.

    Args:
        ungraded: how many.
        of: how many there are in all.
        reasons: why, with counts.
        what: is graded, in the plural.
        todo: what the user does next.
        most: largest share.
        few: so many stop nothing.

    Raises:
        GuardError: it is.
    """
    if ungraded > max(few, most * of):
        found = f"{ungraded} of {of} so far ({reasons.most_common(1)[0][0]})"
        raise GuardError(f"at most {most:.0%} ungraded {what}", found, todo)


class UngradedTally:
    """Counts, over many calls, what a guard was asked and could not grade; stops as `stop_where_ungraded` does."""

    def __init__(self, name: str, most: float = MAX_UNGRADED_SHARE) -> None:
        self._name, self._most, self._asked = name, most, 0
        self._reasons: Counter[str] = Counter()

    def ask(self, items: int) -> None:
        """Count items that are about to be graded."""
        self._asked += items

    def add(self, reasons: Iterable[str]) -> None:
        """Count why items were left ungraded.

        Raises:
            GuardError: they are too many.
        """
        self._reasons.update(reasons)
        todo = "check the guard, or allow more by --max-ungraded; answers and verdicts are kept, the same command goes on"
        stop_where_ungraded(self._reasons.total(), self._asked, self._reasons, f"answers by {self._name}", todo, self._most)
