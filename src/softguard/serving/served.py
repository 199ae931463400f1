"""What is served, and within which limits."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field

from softguard.core import Guard, StreamingSystem


@dataclass(frozen=True)
class Served:
    """The systems by their model ids.

    Attributes:
        systems: in the order in which they are listed.
        guard: judges answers for those who ask for it; None where there is none.
        thresholds: the operating point b of each system that has one, to be shown beside its s.
        fingerprint: of the base model; clients see its beginning as `system_fingerprint`.
        created: seconds since 1970, as `/v1/models` shows it.
    """

    systems: Mapping[str, StreamingSystem]
    guard: Guard | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    fingerprint: str = ""
    created: int = 0


class Limits(BaseModel):
    """What a client can have; beyond it the answer is an error, never a silent cut."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    max_body: int = Field(256 * 1024, gt=0, description="bytes of a request")
    max_tokens: int = Field(512, gt=0, description="longest answer, and the length of one for which the request names none")
    concurrency: int = Field(4, gt=0, description="answers that are made at a time, a token of each in turn")
    queue: int = Field(16, ge=0, description="requests that wait for their turn; the next one is told to come back (429)")
    body_seconds: float = Field(20.0, gt=0, description="in which a request has to arrive")
