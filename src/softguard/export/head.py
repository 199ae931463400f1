"""The head row of virtual tokens: no state makes them the likeliest. Pure functions of final states and the head."""

from dataclasses import dataclass

import torch
from torch import Tensor

from softguard.core.head import Head
from softguard.errors import CompatibilityError

MARGINS_NATS = (0.0, 10.0, 20.0, 40.0)
"""How far below the mean logit a virtual token's may be put, at a state of the mean length along the mean direction."""
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class RealLogits:
    """What a head makes of N states: the largest logit and the log-sum-exp of all, N each."""

    largest: Tensor
    total: Tensor

    @classmethod
    def of(cls, head: Head, states: Tensor) -> "RealLogits":
        """Return it."""
        largest, total = [], []
        for part in torch.split(states, _ROWS_AT_ONCE):
            logits = head.logits(part.to(head.weight.dtype))
            largest.append(logits.amax(-1))
            total.append(logits.logsumexp(-1))
        return cls(torch.cat(largest), torch.cat(total))


def silent_row(head: Head, states: Tensor) -> Tensor:
    """Return the head row of a virtual token: the mean of all rows, minus a margin along the mean final state m.

    At a state h its logit is mean_v logit_v(h) - margin (m h) / (m m). The mean is never above the largest logit, whatever h is:
    that is a proof, up to the rounding of the file's type, wherever m h >= 0. A row of zeros has no such bound: it wins wherever
    all real logits are negative. The margin is the one of `MARGINS_NATS` that leaves the widest gap on the states that are least
    along m; where states share no direction that is 0, and the proof holds everywhere.

    Raises:
        CompatibilityError: a head whose logits have a bias.
    """
    if head.bias is not None:
        raise CompatibilityError("a head without bias", "one with a bias", "choose another base model")
    mean_state = states.float().mean(0)
    unit = mean_state / mean_state.square().sum()
    mean_row = head.weight.float().mean(0)
    along = states.float() @ unit
    worst = along.argsort()[:_ROWS_AT_ONCE]
    hardest = states[worst].to(head.weight.dtype)
    largest = head.logits(hardest).amax(-1)

    def gap(margin: float) -> float:
        row = mean_row - margin / head.scale * unit
        own = Head(row[None].to(head.weight), None, head.scale, head.softcap)
        return float((own.logits(hardest)[:, 0] - largest).max())

    margin = min(MARGINS_NATS, key=gap)
    return mean_row - margin / head.scale * unit


@dataclass(frozen=True)
class Speakability:
    """How near virtual tokens come to being said.

    `largest_gap_nats`: the largest logit of a virtual token minus the largest of a real one, over all positions: negative.
    `largest_probability`: of all virtual tokens together, at temperature 1. `smallest_alignment`: of m h / m m, see `silent_row`.
    """

    positions: int
    largest_gap_nats: float
    largest_probability: float
    smallest_alignment: float


def speakability(head: Head, states: Tensor, real: RealLogits, silent: Tensor, count: int) -> Speakability:
    """Return the bound over N states with their `real` logits, for `count` virtual tokens with the row `silent` as stored."""
    mean_state = states.float().mean(0)
    alignment = states.float() @ mean_state / mean_state.square().sum()
    own = Head(silent[None].to(head.weight), None, head.scale, head.softcap)
    virtual = own.logits(states.to(head.weight.dtype))[:, 0]
    gap = float((virtual - real.largest).max())
    probability = min(1.0, count * float((virtual - real.total).max().exp()))
    return Speakability(len(states), gap, probability, float(alignment.min()))
