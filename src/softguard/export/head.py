"""The rows of an output head that an export adds or changes. Pure functions of final states and the head.

Two things are put into a head. Virtual tokens get a row that no state can make the likeliest; the refusal's first token S gets
its row shifted, so that greedy decoding refuses where the student's operating point says so.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from softguard.core.head import Head
from softguard.errors import CompatibilityError

MARGINS_NATS = (0.0, 10.0, 20.0, 40.0)
"""How far below the mean logit a virtual token's may be put, at a state of the mean length along the mean direction."""
_NEAR, _ELSEWHERE, _RIDGE = 3.0, 0.05, 1e-3
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class HeadRows:
    """What is baked: `silent`, D, the row of every virtual token; `refusal_shift`, D, what is added to the row of S."""

    silent: Tensor
    refusal_shift: Tensor


@dataclass(frozen=True)
class FirstPositions:
    """The first answer position of N prompts.

    Attributes:
        states: N x D, final states.
        log_odds: N, s, of the refusal's first token.
        gap: N, log-sum-exp of the other tokens' logits minus the largest of them.
    """

    states: Tensor
    log_odds: Tensor
    gap: Tensor

    @classmethod
    def of(cls, states: Tensor, head: Head, refusal_token: int) -> "FirstPositions":
        """Return what is known at these states."""
        odds, gaps = [], []
        for part in torch.split(states, _ROWS_AT_ONCE):
            logits = head.logits(part.to(head.weight.dtype))
            own = logits[:, refusal_token].clone()
            logits[:, refusal_token] = -torch.inf
            total = logits.logsumexp(-1)
            odds.append(own - total)
            gaps.append(total - logits.amax(-1))
        return cls(states, torch.cat(odds), torch.cat(gaps))


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


def refusal_shift(first: FirstPositions, elsewhere: Tensor, threshold: float, scale: float = 1.0) -> Tensor:
    """Return what to add to the row of S, so that S is the likeliest first token iff s > b, and hardly changes elsewhere.

    With s = z_S - lse(others) and g = lse(others) - max(others), S is the likeliest iff s + g > 0. So S needs the shift
    -(b + g) at the first position and none at any other. g differs from prompt to prompt: a constant would misjudge prompts near
    b. A shift of the row is linear in the state, so it is fitted by ridge regression, prompts near b weighing most. This is the
    scalar of decision 0008 made part of the weights.

    Args:
        first: the first answer positions of prompts of training and validation.
        elsewhere: M x D, states of other positions, where the shift should vanish.
        threshold: b, nats.
        scale: the head's factor on logits.
    """
    near = torch.exp(-0.5 * ((first.log_odds - threshold) / _NEAR).square()) + 0.02
    other = torch.full((len(elsewhere),), _ELSEWHERE * float(near.sum()) / max(1, len(elsewhere)))
    states = torch.cat([first.states, elsewhere]).double()
    weight = torch.cat([near.cpu(), other]).to(states)
    wanted = torch.cat([-(first.gap + threshold), first.gap.new_zeros(len(elsewhere))]).double() / scale
    gram = states.T @ (states * weight[:, None])
    ridge = _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    solution: Tensor = torch.linalg.solve(gram + ridge, states.T @ (weight * wanted))
    return solution.float()


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


def speakability(head: Head, states: Tensor, silent: Tensor, count: int) -> Speakability:
    """Return the bound over N states, for `count` virtual tokens with the row `silent` as the file stores it."""
    mean_state = states.float().mean(0)
    alignment = states.float() @ mean_state / mean_state.square().sum()
    own = Head(silent[None].to(head.weight), None, head.scale, head.softcap)
    gaps, shares = [], []
    for part in torch.split(states, _ROWS_AT_ONCE):
        part = part.to(head.weight.dtype)
        real, virtual = head.logits(part), own.logits(part)[:, 0]
        gaps.append(float((virtual - real.amax(-1)).max()))
        shares.append(float((virtual - real.logsumexp(-1)).max()))
    probability = min(1.0, count * float(torch.tensor(max(shares)).exp()))
    return Speakability(len(states), max(gaps), probability, float(alignment.min()))
