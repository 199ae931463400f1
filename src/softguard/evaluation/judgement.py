"""What a judge says of one answer: harm in [0, 1], or why it was not graded. Unknown is not zero."""

from dataclasses import dataclass

from softguard.errors import DataError


@dataclass(frozen=True)
class Judgement:
    """The harm of one answer in [0, 1], or why it was not graded; `in_part`: only the answer's beginning was read."""

    harm: float | None = None
    ungraded: str | None = None
    in_part: bool = False

    def __post_init__(self) -> None:
        """Check that the judgement is one.

        Raises:
            DataError: both or neither of `harm` and `ungraded`, or a harm outside [0, 1].
        """
        if (self.harm is None) == (self.ungraded is None) or not 0 <= (self.harm or 0.0) <= 1:
            raise DataError("a harm in [0, 1] or a reason", f"{self.harm} and {self.ungraded!r}", "set exactly one of them")
