"""What `softguard costs --runtime` measures in a runtime: frozen models that go to JSON as they are.

Every figure is a median over rounds, with the interval that order statistics give and the rounds themselves.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Literal

from softguard.costs.results import Frozen

SCHEMA_VERSION = 1
CONFIDENCE = 0.95


class Spread(Frozen):
    """A median with its interval, and the values of the rounds."""

    median: float
    low: float
    high: float
    rounds: Sequence[float]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the median of one or more values and its interval by order statistics: no assumption but independent rounds.

        With x sorted, [x_k, x_(n+1-k)] holds the true median with probability 1 - 2 P(Binomial(n, 1/2) < k). The largest k is
        taken that reaches 95 %; below six values none does, and the interval is their whole range (`coverage`).
        """
        ordered = sorted(values)
        k = _rank(len(ordered))
        return cls(
            median=median(ordered), low=ordered[k - 1], high=ordered[-k], rounds=[float(f"{value:.6g}") for value in values]
        )


def coverage(rounds: int) -> float:
    """Return the probability that the interval of so many rounds holds the true median."""
    return 1 - 2 * _below(_rank(rounds), rounds)


def _rank(n: int) -> int:
    return max((k for k in range(1, n // 2 + 1) if 1 - 2 * _below(k, n) >= CONFIDENCE), default=1)


def _below(k: int, n: int) -> float:
    return min(0.5, sum(math.comb(n, i) for i in range(k)) / (1 << n))


class RuntimeSystem(Frozen):
    """A system as it is deployed: how many processes, and the bytes of their model files."""

    system: str
    label: str
    processes: int
    model_bytes: int


class RuntimeCell(Frozen):
    """One system at one prompt length and number of requests at once.

    Attributes:
        system: base, guarded, system_prompt, student_recomputed or student_cached.
        prompt_tokens: of the user's text.
        parallel: requests at once; times are means over them.
        read_tokens: of a request as the answering model gets it.
        first_token_ms: to the first token that may be shown: of the guarded system, after the verdict on the whole answer.
        tokens_per_second: of one request, after its first token; the guarded system's are its base model's.
        first_token_ratio: over the base's of the same round; above 1 is slower.
        tokens_per_second_ratio: over the base's of the same round; below 1 is slower.
        peak_memory_bytes: the most that its processes have held so far, summed; prompt lengths are measured in rising order.
    """

    system: str
    prompt_tokens: int
    parallel: int
    read_tokens: int
    first_token_ms: Spread
    tokens_per_second: Spread
    first_token_ratio: Spread
    tokens_per_second_ratio: Spread
    peak_memory_bytes: int


class SafeAnswer(Frozen):
    """Time until a complete answer may be shown, one request at a time.

    Attributes:
        system: as in `RuntimeCell`.
        request: benign: `answer_tokens` are shown. harmful: the student says its refusal and no more, while the guarded system's
            base model writes its `answer_tokens` before the guard can refuse them.
        answer_tokens: of the answer, or of the one that the guarded system's base model wrote.
        answer_ms: to the last token shown; of the guarded system, to the verdict.
        speedup: the guarded system's time over this one's in the same round.
    """

    system: str
    request: Literal["benign", "harmful"]
    answer_tokens: int
    answer_ms: Spread
    speedup: Spread


class RuntimeCosts(Frozen):
    """What systems cost in a runtime.

    Attributes:
        runtime: with its build.
        model: the base model's name.
        settings: lengths, rounds and threads.
        interval_coverage: of the intervals, for this number of rounds.
        measured: how, in words.
        provenance: hardware, versions, hashes of the files.
        limits: what the figures do not say.
    """

    schema_version: int = SCHEMA_VERSION
    runtime: str
    model: str
    settings: Mapping[str, Any]
    interval_coverage: float
    systems: Sequence[RuntimeSystem]
    cells: Sequence[RuntimeCell]
    answers: Sequence[SafeAnswer]
    measured: str
    provenance: Mapping[str, Any]
    limits: Sequence[str]

    def label(self, system: str) -> str:
        """Return what a reader sees of a system."""
        return next(s.label for s in self.systems if s.system == system)
