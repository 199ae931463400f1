"""One vocabulary entry whose text is the whole refusal: a runtime that picks it first has refused, word for word.

A runtime cannot be told "if s > b, say this text". It can have a token that is this text. Its head row makes it the likeliest
first token iff s > b, and keeps it below all others wherever an answer is under way; as an input it is a vector after which the
model ends its turn (`recipes.export_head` finds that one: it takes the model). The refusal's own first token S is taken out of
first positions, as in memory. Pure functions of final states and the head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from softguard.core.head import Head
from softguard.export.head import RealLogits

MARGIN_NATS = 8.0
"""How far below the likeliest token the entry is to stay where an answer is under way."""
MUTED_NATS = 4.0
"""How far below the likeliest other token S is to stay at first positions."""
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Of these, what does best on a fifth of the prompts is taken; in units of the mean square of a state's numbers."""
_NEAR, _FLOOR, _RARE = 2.0, 0.05, 0.01
_ROUNDS = 40
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class RefusalEntry:
    """What is baked for the refusal.

    Attributes:
        head: D, the entry's row of the head.
        embedding: D, what it is as an input, on the far side of the embedding layer.
        first_token: D, what is added to the head row of S.
    """

    head: Tensor
    embedding: Tensor
    first_token: Tensor


@dataclass(frozen=True)
class BakedRows:
    """What is baked: `silent`, D, the head row of every virtual token, and the refusal's entry, where there is a threshold."""

    silent: Tensor
    refusal: RefusalEntry | None


@dataclass(frozen=True)
class FirstPositions:
    """The first answer position of N prompts.

    Attributes:
        states: N x D, final states.
        log_odds: N, s, of the refusal's first token S.
        largest: N, the largest logit of the other tokens.
    """

    states: Tensor
    log_odds: Tensor
    largest: Tensor

    @classmethod
    def of(cls, states: Tensor, head: Head, refusal_token: int) -> "FirstPositions":
        """Return what is known at these states."""
        odds, largest = [], []
        for part in torch.split(states, _ROWS_AT_ONCE):
            logits = head.logits(part.to(head.weight.dtype))
            own = logits[:, refusal_token].clone()
            logits[:, refusal_token] = -torch.inf
            odds.append(own - logits.logsumexp(-1))
            largest.append(logits.amax(-1))
        return cls(states, torch.cat(odds), torch.cat(largest))


def decision_row(
    first: FirstPositions, elsewhere: Tensor, real: RealLogits, refusal_token: int, threshold: float, head: Head
) -> Tensor:
    """Return the head row of the refusal's entry, D.

    At a first position its logit is to be the largest one of tokens other than S plus s - b, so that it is the likeliest iff
    s > b. That is z_S - b - (log-sum-exp of the others minus their largest): the logit of S, and something that differs little
    from prompt to prompt. So what is added to the row of S is fitted, by ridge regression, prompts near b weighing most. Anywhere
    else the entry is to stay `MARGIN_NATS` below the likeliest. A row is linear in the state and that term is not: the
    fit has an error, `baked_decision` of verify.json.

    Args:
        first: the first answer positions of prompts of training and validation.
        elsewhere: M x D, states of other positions.
        real: their logits.
        refusal_token: the refusal's first token S.
        threshold: b, nats.
        head: the head, for its factor on logits and their bound.
    """
    weight = torch.exp(-0.5 * ((first.log_odds - threshold) / _NEAR).square()) + _FLOOR
    start = head.weight[refusal_token].float()
    wanted = _unbounded(first.largest + first.log_odds - threshold, head) - first.states @ start
    most = _unbounded(real.largest - MARGIN_NATS, head) - elsewhere @ start
    order = torch.randperm(len(wanted), generator=torch.Generator().manual_seed(0)).to(wanted.device)
    held, kept = order[: len(order) // 5], order[len(order) // 5 :]

    def error(ridge: float) -> float:
        row = _bounded_fit(first.states[kept], wanted[kept], weight[kept], elsewhere, most, ridge)
        return float((weight[held] * (first.states[held] @ row - wanted[held]).square()).sum())

    return start + _bounded_fit(first.states, wanted, weight, elsewhere, most, min(RIDGES, key=error))


def muted_first(first: FirstPositions, elsewhere: Tensor, real: RealLogits, refusal_token: int, head: Head) -> Tensor:
    """Return what to add to the row of S, D: nothing at other positions, and `MUTED_NATS` below the likeliest at first ones.

    In memory an answer that is no refusal does not begin with S. Here S keeps its probability in an answer under way, but
    for the error of the fit (`Restraint`), which weighs by that probability.
    """
    most = _unbounded(first.largest - MUTED_NATS, head) - first.states @ head.weight[refusal_token].float()
    weight = first_token_share(head, elsewhere, real, refusal_token) + _RARE
    return _bounded_fit(elsewhere, torch.zeros_like(weight), weight, first.states, most, RIDGES[0])


def first_token_share(head: Head, states: Tensor, real: RealLogits, refusal_token: int) -> Tensor:
    """Return the probability of S at each state."""
    own = Head(head.weight[refusal_token][None], None, head.scale, head.softcap)
    return (own.logits(states.to(head.weight.dtype))[:, 0] - real.total).exp()


def _bounded_fit(states: Tensor, wanted: Tensor, weight: Tensor, others: Tensor, most: Tensor, ridge: float) -> Tensor:
    """Return the vector, D, that gives what is wanted at N states, and at most `most` at M others.

    Weighted least squares; the mean squared excess over `most` is added. Newton's method: the others that exceed it, solved again
    until they stay the same.
    """
    x, y, others, most = states.double(), wanted.double(), others.double(), most.double()
    share = (weight / weight.sum()).to(x)
    gram, right = x.T @ (x * share[:, None]), x.T @ (share * y)
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    found: Tensor = torch.linalg.solve(gram, right)
    over = torch.zeros(len(others), dtype=torch.bool, device=others.device)
    for _ in range(_ROUNDS):
        now = (others @ found > most) | over
        if bool((now == over).all()):
            break
        over = now
        some = others[over]
        found = torch.linalg.solve(gram + some.T @ some / len(others), right + some.T @ most[over] / len(others))
    return found.float()


def _unbounded(logits: Tensor, head: Head) -> Tensor:
    """Return what a row has to give for a head to make these logits of it."""
    if head.softcap is not None:
        logits = head.softcap * torch.atanh((logits / head.softcap).clamp(-0.999, 0.999))
    return logits / head.scale


@dataclass(frozen=True)
class Restraint:
    """How far the refusal's entry keeps out of answers under way, over M positions after the first of an answer.

    Attributes:
        positions: M.
        positions_where_likeliest: of them, where the entry's logit is the largest.
        largest_gap_nats: the entry's logit minus the largest real one.
        first_token_divergence_nats: KL of the next token there from what it was before the row of S changed, on the mean.
    """

    positions: int
    positions_where_likeliest: int
    largest_gap_nats: float
    first_token_divergence_nats: float


def restraint(head: Head, elsewhere: Tensor, real: RealLogits, row: Tensor, refusal_token: int, added: Tensor) -> Restraint:
    """Return it for a row of the entry as the file stores it, and what was added to that of S."""
    own = Head(row[None].to(head.weight), None, head.scale, head.softcap)
    gap = own.logits(elsewhere.to(head.weight.dtype))[:, 0] - real.largest
    share, change = first_token_share(head, elsewhere, real, refusal_token), elsewhere.float() @ added.float() * head.scale
    divergence = torch.log1p(share * torch.expm1(change)) - share * change  # exact: one logit of the softmax moved
    return Restraint(len(gap), int((gap > 0).sum()), float(gap.max()), float(divergence.mean()))
