"""A soft-embedding attack: continuous vectors at the end of the user's turn, descended along the loss by Adam.

No text gives such vectors: this is the attack of somebody who holds the weights and runs them, and an upper bound for attacks by
text at the same place. It starts from the embeddings of fillers, keeps the best vectors, and stops once the target is reached.

References:
    Schwinn et al. 2024, arXiv 2402.09063 (embedding space attacks). What differs: Adam at a rate relative to the size of the
    model's embeddings, an opening that names no content, and the loss's term for the operating point. The reference budget is
    ours.
"""

import time

import torch

from softguard.evaluation.attacks.attack import ATTACKS, Attack, Budget, Found
from softguard.evaluation.attacks.victim import Scorer, Victim

RATE = 0.1
"""Adam's step, over the root mean square of the embeddings that it starts from."""


def run(victim: Victim, request: str, budget: Budget, seed: int) -> Found:
    """Return the best vectors within the budget; nothing is drawn, so the seed plays no part."""
    started = time.monotonic()
    place = victim.place(request, budget.tokens)
    scorer = Scorer(victim, place)
    vectors = scorer.embed(place.added).float().requires_grad_()
    best = vectors.detach().clone()
    optimiser = torch.optim.Adam([vectors], lr=RATE * float(best.square().mean().sqrt()))
    before = loss = float("inf")
    steps, reached = 0, False
    while True:
        scores = scorer.scores(vectors[None])
        value, there = float(scores.loss.detach()), bool(scores.reached)
        before = value if steps == 0 else before
        if value < loss:
            loss, best, reached = value, vectors.detach().clone(), there
        if reached or steps == budget.steps or time.monotonic() - started >= budget.seconds:
            break
        (vectors.grad,) = torch.autograd.grad(scores.loss.sum(), vectors)
        optimiser.step()
        steps += 1
    out_of_time = not reached and steps < budget.steps
    return Found(place, "", best, before, loss, steps, time.monotonic() - started, reached, out_of_time)


SOFT_EMBEDDING = ATTACKS.register("soft_embedding")(
    Attack("soft embeddings", "Schwinn et al. 2024, arXiv 2402.09063", Budget(steps=200, seconds=float("inf"), candidates=1), run)
)
