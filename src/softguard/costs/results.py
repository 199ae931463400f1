"""What `softguard costs` finds: frozen models that go to JSON as they are. Operations are per token of a request."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, computed_field

from softguard.costs.counting import CONVENTION, Flops

SCHEMA_VERSION = 1
CONTEXTS = (128, 256, 512, 1024, 2048, 4096, 8192)
"""Tokens of a request, prompt and answer together."""
REFERENCE_CONTEXT = 512
"""The context of the paper's table 5, and of ours where one has to be chosen."""


class Frozen(BaseModel):
    """A value: immutable, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TokenFlops(Frozen):
    """Operations per token at one context; the sums are written and not read."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    context: int
    body: float
    attention: float
    head: float

    @classmethod
    def of(cls, context: int, flops: Flops) -> "TokenFlops":
        """Return them with their context."""
        return cls(context=context, body=flops.body, attention=flops.attention, head=flops.head)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> float:
        """All three."""
        return self.body + self.attention + self.head

    @computed_field  # type: ignore[prop-decorator]
    @property
    def without_head(self) -> float:
        """Body and attention."""
        return self.body + self.attention


class SystemCosts(Frozen):
    """One system's row.

    Attributes:
        system: base, guarded, guarded_model_size, student_recomputed, student_cached, system_prompt_recomputed or ..._cached.
        label: what a reader sees.
        parameters: numbers held, the base model's among them.
        weights_bytes: of these.
        cache_bytes: keys and values at the end of a request, by its tokens; a kept prefix is among them.
        flops: per token, one entry for each context; empty where they are not known.
        note: what to mind.
    """

    system: str
    label: str
    parameters: int
    weights_bytes: int
    cache_bytes: Mapping[int, int]
    flops: Sequence[TokenFlops]
    note: str = ""

    def at(self, context: int) -> TokenFlops | None:
        """Return the operations at a context, None where they are not known."""
        return next((f for f in self.flops if f.context == context), None)


class Timing(Frozen):
    """One system's times for one request at a time: medians over the rounds, and medians of its ratio to the base in each round.

    `first_token_ms`: from the prompt's ids to the first token that may be shown. `tokens_per_second`: of the whole answer, from
    the prompt on. Ratios are this system's time over the base's: above 1 is slower.
    """

    system: str
    label: str
    first_token_ms: float
    tokens_per_second: float
    first_token_ratio: float
    answer_ratio: float
    first_token_rounds_ms: Sequence[float]
    answer_rounds_ms: Sequence[float]


class CostReport(Frozen):
    """What a model's systems cost: counted, and where a run was at hand measured.

    Attributes:
        model: its name.
        weight_bits: per weight, as held.
        answer_tokens: of a request's tokens, those of the answer where a guard tells the two apart.
        added: the fields of `Added` by system, for whoever wants to count again.
        timed: what was timed, in words; empty where nothing was.
        provenance: hardware and versions of the timings.
    """

    schema_version: int = SCHEMA_VERSION
    model: str
    weight_bits: float
    answer_tokens: int
    convention: str = CONVENTION
    added: Mapping[str, Mapping[str, int]]
    systems: Sequence[SystemCosts]
    timed: str = ""
    timings: Sequence[Timing] = ()
    provenance: Mapping[str, Any] = {}
    limits: Sequence[str] = ()

    def system(self, name: str) -> SystemCosts:
        """Return a system's row by name."""
        return next(s for s in self.systems if s.system == name)
