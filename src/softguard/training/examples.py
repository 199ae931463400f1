"""What the loop trains on: a rendered prompt with its teacher record."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from softguard.core import Conversation
from softguard.models import RenderedPrompt
from softguard.teacher import TeacherRecord


@dataclass(frozen=True)
class Sampled:
    """What belongs to a response of the student (`on_policy`).

    Attributes:
        reward: the guard's p_safe.
        past_rewards: the mean reward of each earlier step.
        old_log_probs: of each token before the first update on it; None where there is one update.
        old_values: the value head's, likewise.
    """

    reward: float
    past_rewards: tuple[float, ...] = ()
    old_log_probs: Tensor | None = None
    old_values: Tensor | None = None


@dataclass(frozen=True)
class Example:
    """One prompt. `harmful` steers only how batches are mixed; the target is always the record's alpha.

    `conversation`: what the guard reads with a response of the student; needed where there are any.
    `sampled`: what belongs to such a response.
    """

    prompt: RenderedPrompt
    record: TeacherRecord
    harmful: bool
    conversation: Conversation | None = None
    sampled: Sampled | None = None


def batches(examples: Sequence[Example], batch_size: int, harmful_share: float, seed: int) -> Iterator[list[int]]:
    """Yield batches of indices without end, each with `harmful_share` of harmful prompts, either kind shuffled anew
    whenever it is used up. The stream depends on the seed alone, so it can be wound forward after a resume.
    """
    rng = np.random.default_rng([seed, 1])
    pools = [[i for i, e in enumerate(examples) if e.harmful == kind] for kind in (True, False)]
    counts = [round(batch_size * harmful_share), batch_size - round(batch_size * harmful_share)]
    queues: list[list[int]] = [[], []]
    while True:
        batch: list[int] = []
        for queue, pool, count in zip(queues, pools, counts, strict=True):
            while len(queue) < count:
                queue += rng.permutation(pool).tolist()
            batch += queue[:count]
            del queue[:count]
        yield batch
