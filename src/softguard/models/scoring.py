"""Scoring of given responses: the final states at the positions that predict them, and nothing for the others.

Sequences are padded on the right, so a causal body needs no mask: what comes after a position cannot reach it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softguard.core.protocols import Progress
from softguard.models.language_model import LanguageModel
from softguard.models.sampling import log_odds


@dataclass(frozen=True)
class ResponseStates:
    """Flat over the response tokens of all rows, row by row.

    Attributes:
        states: N x D, the state that predicts each token.
        targets: N, the tokens.
        row: N, which (prompt, response) each belongs to.
        position: N, its place in the response, from 0.
    """

    states: Tensor
    targets: Tensor
    row: Tensor
    position: Tensor


def token_budget_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Return batches of indices, sorted by length, each of at most `budget` padded tokens (a long row goes alone)."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[i] <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def response_states(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    virtual_tokens: Tensor | None = None,
    *,
    token_budget: int = 2048,
) -> ResponseStates:
    """Return the states that predict `responses` after `prompts`; gradients flow to `virtual_tokens` where enabled."""
    lengths = [len(p) + len(r) - 1 for p, r in zip(prompts, responses, strict=True)]
    parts: dict[int, Tensor] = {}
    for batch in token_budget_batches(lengths, token_budget):
        width = max(lengths[i] for i in batch)
        rows = [[*prompts[i], *responses[i][:-1]] for i in batch]
        ids = torch.tensor([r + [0] * (width - len(r)) for r in rows], device=lm.device)
        out = lm.body(inputs_embeds=lm.embed(ids, virtual_tokens), use_cache=False).last_hidden_state
        for k, i in enumerate(batch):
            parts[i] = out[k, len(prompts[i]) - 1 : lengths[i]]
    device = lm.device
    return ResponseStates(
        states=torch.cat([parts[i] for i in range(len(prompts))]),
        targets=torch.tensor([t for r in responses for t in r], device=device),
        row=torch.tensor([i for i, r in enumerate(responses) for _ in r], device=device),
        position=torch.tensor([t for r in responses for t in range(len(r))], device=device),
    )


@torch.inference_mode()
def next_token_logits(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    virtual_tokens: Tensor | None = None,
    *,
    token_budget: int = 4096,
    progress: Progress | None = None,
) -> Tensor:
    """Return the float32 logits that follow each prompt, N x V."""
    out: list[Tensor | None] = [None] * len(prompts)
    done = 0
    for batch in token_budget_batches([len(p) for p in prompts], token_budget):
        states = response_states(
            lm, [prompts[i] for i in batch], [[0]] * len(batch), virtual_tokens, token_budget=token_budget
        ).states
        for i, logits in zip(batch, lm.head(states), strict=True):
            out[i] = logits
        done += len(batch)
        if progress:
            progress(done, len(prompts))
    return torch.stack([o for o in out if o is not None])


@torch.inference_mode()
def refusal_log_odds(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    refusal_token: int,
    virtual_tokens: Tensor | None = None,
    *,
    token_budget: int = 4096,
    progress: Progress | None = None,
) -> list[float]:
    """Return s = log rho - log(1 - rho) for each prompt, rho the probability of the refusal's first token."""
    out = [0.0] * len(prompts)
    done = 0
    for batch in token_budget_batches([len(p) for p in prompts], token_budget):
        logits = next_token_logits(lm, [prompts[i] for i in batch], virtual_tokens, token_budget=token_budget)
        for i, value in zip(batch, log_odds(logits, refusal_token).tolist(), strict=True):
            out[i] = value
        done += len(batch)
        if progress:
            progress(done, len(prompts))
    return out
