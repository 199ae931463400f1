"""What the loop trains on: a rendered prompt with its teacher record."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from softguard.models import RenderedPrompt
from softguard.teacher import TeacherRecord


@dataclass(frozen=True)
class Example:
    """One prompt. `harmful` steers only how batches are mixed; the target is always the record's alpha."""

    prompt: RenderedPrompt
    record: TeacherRecord
    harmful: bool


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
