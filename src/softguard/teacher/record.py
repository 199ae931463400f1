"""What the teacher leaves behind for one prompt."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from softguard.errors import CompatibilityError


@dataclass(frozen=True)
class Outcome:
    """What the teacher says instead of y with probability `weight`: its text, and its ids with the turn end."""

    text: str
    response_ids: tuple[int, ...]
    weight: float


@dataclass(frozen=True)
class TeacherRecord:
    """One draft y ~ p(y|x) at temperature 1 with its verdict.

    Attributes:
        id: of the prompt.
        response_ids: y with its turn end; a truncated y has none.
        response: its text, the very text that the guard judged.
        truncated: whether y was cut at the token limit.
        alpha: p(s=1|x,y), soft: with this probability the teacher says y.
        categories: the guard's scores by category.
        log_prob: log p(y|x), sum over tokens in nats; None where the teacher's model does not tell.
        states: T_y x D bfloat16, the base model's final states that predict each token of y; the first of them
            is also the one that predicts the first token of the refusal. None where the teacher's model does not tell.
        refusal_log_prob: log p(y_r|x), where it was asked for.
        outcomes: what is said instead of y, their weights adding up to 1 - alpha; empty for the one refusal.
    """

    id: str
    response_ids: tuple[int, ...]
    response: str
    truncated: bool
    alpha: float
    categories: Mapping[str, float]
    log_prob: float | None
    states: Tensor | None
    refusal_log_prob: float | None = None
    outcomes: tuple[Outcome, ...] = ()

    def base_states(self) -> Tensor:
        """Return `states`.

        Raises:
            CompatibilityError: the teacher's model gave none.
        """
        if self.states is None:
            raise CompatibilityError("a teacher that gives its states", f"none for {self.id}", "take a teacher that runs here")
        return self.states
