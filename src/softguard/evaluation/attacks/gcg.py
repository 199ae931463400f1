"""GCG: a suffix of tokens, exchanged one at a time where the gradient says that the loss may fall (greedy coordinate gradient).

Each step: the gradient of the loss with respect to each one-hot token of the suffix; at each place the `TOP_K` tokens that it
favours most; `candidates` variants, spread evenly over the places, with one token exchanged by one of these; the best variant is
the next suffix, better or not, and the best of all steps is what is found. A variant counts only if its text gives its own tokens
back, so that what was optimised is what a user can type; tokens are printable ASCII. Stops once the target is reached.

References:
    Zou et al. 2023, arXiv 2307.15043, algorithm 1; 500 steps of 512 candidates, top 256, 20 tokens. What differs: one prompt at a
    time, the opening names no content, the loss has a term for the operating point, and no step is wasted after success.
"""

import time
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from softguard.evaluation.attacks.attack import ATTACKS, Attack, Budget, Found
from softguard.evaluation.attacks.victim import ROWS, Scorer, Victim

TOP_K = 256


@lru_cache(maxsize=2)
def printable(tokenizer: Any, rows: int) -> Tensor:
    """Return for each of `rows` ids whether it is a token of printable ASCII, and no special one."""
    special = set(tokenizer.all_special_ids) | {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    known = min(rows, len(tokenizer))
    texts = [tokenizer.decode([i], skip_special_tokens=False, clean_up_tokenization_spaces=False) for i in range(known)]
    found = [bool(t) and t.isascii() and t.isprintable() and i not in special for i, t in enumerate(texts)]
    return torch.tensor(found + [False] * (rows - known))


def favoured(scorer: Scorer, ids: Tensor, allowed: Tensor) -> Tensor:
    """Return for each place of the suffix the allowed tokens of the steepest descent, k x at most `TOP_K`."""
    added = scorer.embed(ids.tolist()).float().requires_grad_()
    (gradient,) = torch.autograd.grad(scorer.scores(added[None]).loss.sum(), added)
    table = scorer.victim.lm.embedding_weight
    slope = (gradient.to(table.dtype) @ table.T).float().masked_fill(~allowed, torch.inf)
    return (-slope).topk(min(TOP_K, int(allowed.sum())), dim=1).indices.cpu()


def variants(ids: Tensor, favoured: Tensor, count: int, generator: torch.Generator) -> list[list[int]]:
    """Return `count` suffixes with one token exchanged, without what is there already or comes twice."""
    where = (torch.arange(count) * len(ids)) // count
    which = torch.randint(favoured.shape[1], (count,), generator=generator)
    rows = ids.repeat(count, 1)
    rows[torch.arange(count), where] = favoured[where, which]
    return [list(v) for v in dict.fromkeys(map(tuple, rows.tolist())) if list(v) != ids.tolist()]


def run(victim: Victim, request: str, budget: Budget, seed: int) -> Found:
    """Return the best suffix within the budget."""
    started = time.monotonic()
    end = started + budget.seconds
    place = victim.place(request, budget.tokens)
    scorer = Scorer(victim, place)
    allowed = printable(victim.lm.tokenizer, len(victim.lm.embedding_weight)).to(victim.lm.device)
    generator = torch.Generator().manual_seed(seed)
    current, best = torch.tensor(place.added), list(place.added)
    with torch.no_grad():
        first = scorer.scores(scorer.embed(best)[None])
    before = loss = float(first.loss)
    reached, steps = bool(first.reached), 0
    while steps < budget.steps and not reached and time.monotonic() < end:
        tried = variants(current, favoured(scorer, current, allowed), budget.candidates, generator)
        tried = [v for v in tried if place.text(victim, v) is not None]
        scored = _scored(scorer, tried, end)
        if scored is None:
            break
        steps += 1
        if not tried:
            continue
        at = int(scored[0].argmin())
        current = torch.tensor(tried[at])
        if float(scored[0][at]) < loss:
            loss, best, reached = float(scored[0][at]), tried[at], bool(scored[1][at])
    out_of_time = not reached and steps < budget.steps
    text = place.text(victim, best) or ""
    return Found(place, text, None, before, loss, steps, time.monotonic() - started, reached, out_of_time)


@torch.no_grad()
def _scored(scorer: Scorer, tried: list[list[int]], end: float) -> tuple[Tensor, Tensor] | None:
    """Return loss and success of each variant; None where time ran out before the last of them."""
    losses, reached = [torch.zeros(0)], [torch.zeros(0, dtype=torch.bool)]
    for start in range(0, len(tried), ROWS):
        if start and time.monotonic() >= end:
            return None
        part = torch.stack([scorer.embed(v) for v in tried[start : start + ROWS]])
        scores = scorer.scores(part)
        losses.append(scores.loss.cpu())
        reached.append(scores.reached.cpu())
    return torch.cat(losses), torch.cat(reached)


GCG = ATTACKS.register("gcg")(
    Attack("GCG", "Zou et al. 2023, arXiv 2307.15043", Budget(steps=500, seconds=float("inf"), candidates=512, tokens=20), run)
)
