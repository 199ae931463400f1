"""One vocabulary entry whose text is the whole refusal: a runtime that picks it first has refused, word for word.

A runtime cannot be told "if s > b, say this text". It can have a token that is this text. Its head row makes it the likeliest
first token iff s > b, and keeps it below all others wherever an answer is under way; as an input it is a vector after which the
model ends its turn (`recipes.export_head` finds that one: it takes the model). Pure functions of final states and the head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from softguard.core.head import Head

MARGIN_NATS = 8.0
"""How far below the likeliest token the entry is to stay where an answer is under way."""
_NEAR, _FLOOR, _RIDGE = 3.0, 0.02, 1e-4
_ROUNDS = 40
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class RefusalEntry:
    """`head`, D: its row of the head. `embedding`, D: what it is as an input, on the far side of the embedding layer."""

    head: Tensor
    embedding: Tensor


@dataclass(frozen=True)
class BakedRows:
    """What is baked: `silent`, D, the head row of every virtual token, and the refusal's entry, where there is a threshold."""

    silent: Tensor
    refusal: RefusalEntry | None


@dataclass(frozen=True)
class FirstPositions:
    """The first answer position of N prompts: final states, N x D; s, the log-odds of S; the largest logit of any token, N."""

    states: Tensor
    log_odds: Tensor
    largest: Tensor

    @classmethod
    def of(cls, states: Tensor, head: Head, refusal_token: int) -> "FirstPositions":
        """Return what is known at these states."""
        odds, largest = [], []
        for part in torch.split(states, _ROWS_AT_ONCE):
            logits = head.logits(part.to(head.weight.dtype))
            largest.append(logits.amax(-1))
            own = logits[:, refusal_token].clone()
            logits[:, refusal_token] = -torch.inf
            odds.append(own - logits.logsumexp(-1))
        return cls(states, torch.cat(odds), torch.cat(largest))


def decision_row(
    first: FirstPositions, elsewhere: Tensor, elsewhere_largest: Tensor, refusal_token: int, threshold: float, head: Head
) -> Tensor:
    """Return the head row of the refusal's entry, D.

    At a first position its logit is to be the largest other one plus s - b, so that it is the likeliest iff s > b, and at a
    temperature about as likely as S was, moved by b. Anywhere else it is to stay `MARGIN_NATS` below the largest. The first is
    a least squares fit, prompts near b weighing most; the second an inequality, whose squared excess is added (Newton's method:
    the positions that exceed it, solved again until they are the same). A row is linear in the state, s and the largest logit
    are not, so the fit has an error: `baked_decision` of verify.json. Ridge regression of what is added to the row of S, whose
    logit is most of the answer already.

    Args:
        first: the first answer positions of prompts of training and validation.
        elsewhere: M x D, states of other positions.
        elsewhere_largest: M, the largest logit there.
        refusal_token: the refusal's first token S.
        threshold: b, nats.
        head: the head, for its factor on logits and their bound.
    """
    weight = torch.exp(-0.5 * ((first.log_odds - threshold) / _NEAR).square()) + _FLOOR
    weight = (weight / weight.sum()).to(first.states).double()
    states, others = first.states.double(), elsewhere.double()
    start = head.weight[refusal_token].double()
    wanted = _unbounded(first.largest + first.log_odds - threshold, head).to(states) - states @ start
    most = _unbounded(elsewhere_largest - MARGIN_NATS, head).to(states) - others @ start
    gram = states.T @ (states * weight[:, None])
    right = states.T @ (weight * wanted)
    gram += _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    added: Tensor = torch.linalg.solve(gram, right)
    over = torch.zeros(len(others), dtype=torch.bool, device=others.device)
    for _ in range(_ROUNDS):
        now = (others @ added > most) | over
        if bool((now == over).all()):
            break
        over = now
        some, share = others[over], 1 / len(others)
        added = torch.linalg.solve(gram + share * (some.T @ some), right + share * (some.T @ most[over]))
    return (start + added).float()


def _unbounded(logits: Tensor, head: Head) -> Tensor:
    """Return what a row has to give for a head to make these logits of it."""
    if head.softcap is not None:
        logits = head.softcap * torch.atanh((logits / head.softcap).clamp(-0.999, 0.999))
    return logits / head.scale


@dataclass(frozen=True)
class Restraint:
    """How far the refusal's entry keeps out of answers under way, over M positions after the first of an answer.

    `largest_gap_nats`: its logit minus the largest real one; `positions_where_likeliest`: of them, where that is above 0.
    """

    positions: int
    positions_where_likeliest: int
    largest_gap_nats: float


def restraint(head: Head, elsewhere: Tensor, elsewhere_largest: Tensor, row: Tensor) -> Restraint:
    """Return it for a row as the file stores it."""
    own = Head(row[None].to(head.weight), None, head.scale, head.softcap)
    gap = own.logits(elsewhere.to(head.weight.dtype))[:, 0] - elsewhere_largest
    return Restraint(len(gap), int((gap > 0).sum()), float(gap.max()))
