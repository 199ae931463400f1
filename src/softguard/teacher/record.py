"""What the teacher leaves behind for one prompt."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class TeacherRecord:
    """One draft y ~ p(y|x) at temperature 1 with its verdict.

    Attributes:
        id: of the prompt.
        response_ids: y with its turn end; a truncated y has none.
        response: its text, the very text that the guard judged.
        truncated: whether y was cut at the token limit.
        alpha: p(s=1|x,y), soft.
        categories: the guard's scores by category.
        log_prob: log p(y|x), sum over tokens in nats.
        states: T_y x D bfloat16, the base model's final states that predict each token of y; the first of them
            is also the one that predicts the first token of the refusal.
    """

    id: str
    response_ids: tuple[int, ...]
    response: str
    truncated: bool
    alpha: float
    categories: Mapping[str, float]
    log_prob: float
    states: Tensor
