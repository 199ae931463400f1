"""Answers for many prompts: sorted by length, decoded in a batch that is kept full.

A row's randomness is a list of uniforms of its own, used by inverse transform: what it draws does not depend on which rows
share its batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from softguard.core.protocols import Progress
from softguard.models.decoding import BATCH_SIZE, decode_steps
from softguard.models.drawing import uniforms
from softguard.models.language_model import LanguageModel


@dataclass(frozen=True)
class Generation:
    """An answer's ids (with the stop token where it came) and the refusal log-odds at its first position.

    Where they were asked for: `states`, T x D, the final states that predict its tokens, and `log_prob`, their sum in nats at
    temperature 1.
    """

    ids: tuple[int, ...]
    truncated: bool
    refusal_log_odds: float
    refused: bool = False
    states: Tensor | None = None
    log_prob: float | None = None


def sample(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    refusal_token: int,
    refuse_above: float | None = None,
    virtual_tokens: Tensor | None = None,
    keep_states: bool = False,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> list[Generation]:
    """Return one generation for each prompt, in order.

    Args:
        lm: the model.
        prompts: rendered ids, virtual tokens as negative numbers.
        keys: one name for each prompt, for its random stream.
        max_new_tokens: at most this many; an answer without a stop token by then is `truncated`.
        temperature: 0 is greedy.
        seed: of the run.
        refusal_token: the refusal's first token S, whose log-odds at the first position are returned.
        refuse_above: the operating point b: a row with s > b is `refused` and not decoded, any other does not begin with S.
            None leaves it to the decoding.
        virtual_tokens: P x D, or None.
        keep_states: return the states and log-probabilities of what was drawn: they need not be scored in a pass of their own.
        batch_size: rows that decode together (`decode_steps`); matrix products of many rows run at up to twice the rate of 32.
        progress: called with (done, total); `done` counts the tokens made, as so many prompts' worth.
    """
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    if not order:
        return []
    drafts = [_Draft() for _ in order]
    draws = np.stack([uniforms(seed, keys[i], max_new_tokens) for i in order])
    steps = decode_steps(
        lm,
        [prompts[i] for i in order],
        draws,
        max_new_tokens,
        temperature,
        refusal_token,
        refuse_above,
        virtual_tokens,
        score=keep_states,
        batch_size=batch_size,
    )
    spent = 0  # in tokens; a row that ends early has spent all that it might have
    for step in steps:
        for who, s, refused in zip(step.entered, step.log_odds, step.refused, strict=True):
            drafts[who].refusal_log_odds, drafts[who].refused = s, refused
            spent += max_new_tokens * refused
        for row, (who, token) in enumerate(zip(step.rows, step.tokens, strict=True)):
            draft = drafts[who]
            draft.ids.append(token)
            if step.log_probs is not None:
                draft.states.append(step.states[row])
                draft.log_prob += step.log_probs[row]
            spent += max_new_tokens - len(draft.ids) + 1 if token in lm.stop_ids else 1
        if progress:
            progress(spent // max_new_tokens, len(prompts))
    made = {i: draft.done(lm.stop_ids, keep_states) for i, draft in zip(order, drafts, strict=True)}
    return [made[i] for i in range(len(prompts))]


@dataclass
class _Draft:
    """What a row has made so far."""

    ids: list[int] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    log_prob: float = 0.0
    refusal_log_odds: float = 0.0
    refused: bool = False

    def done(self, stop_ids: frozenset[int], keep_states: bool) -> Generation:
        return Generation(
            tuple(self.ids),
            not self.refused and self.ids[-1] not in stop_ids,
            self.refusal_log_odds,
            self.refused,
            torch.stack(self.states) if keep_states else None,
            self.log_prob if keep_states else None,
        )
