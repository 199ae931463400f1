"""Decoding with a KV cache whose batch is kept full: finished rows leave, waiting ones enter beside those that go on."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from softguard.models.drawing import choose, drawing_device
from softguard.models.language_model import LanguageModel
from softguard.models.row_cache import RowCache
from softguard.models.shared_prefix import SharedPrefix

BATCH_SIZE = 256
REFILL = 0.75
"""Rows enter when the batch has fallen to this share: a pass over many prompts runs at a better rate than one over few."""
PREFILL_TOKENS = 2048
"""Padded tokens of the prompts that enter in one pass: what it takes in memory does not grow with the batch."""


@dataclass(frozen=True)
class Step:
    """One pass of the network: a token for each row that entered in it, or for each row that goes on.

    Attributes:
        rows: whose tokens these are, by the prompts' places.
        tokens: one for each of them.
        states: the final states that predict them, one for each of them.
        log_probs: nats at temperature 1, where asked for.
        entered: the rows whose first pass this is, those that are refused included.
        log_odds: of the refusal's first token at the first position, one for each of `entered`.
        refused: by the operating point, one for each of `entered`.
    """

    rows: Sequence[int]
    tokens: Sequence[int]
    states: Tensor
    log_probs: Sequence[float] | None = None
    entered: Sequence[int] = ()
    log_odds: Sequence[float] = ()
    refused: Sequence[bool] = ()


@torch.inference_mode()
def decode_steps(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    draws: np.ndarray,
    max_new_tokens: int,
    temperature: float,
    refusal_token: int,
    refuse_above: float | None,
    virtual_tokens: Tensor | None,
    *,
    score: bool = False,
    prefix: SharedPrefix | None = None,
    batch_size: int = BATCH_SIZE,
) -> Iterator[Step]:
    """Give the tokens of all prompts as they are made: one pass of the network between two steps. See `sample`.

    Args:
        lm: the model.
        prompts: rendered ids; they enter in this order.
        draws: uniforms, rows x `max_new_tokens`.
        max_new_tokens: at most this many for each row.
        temperature: 0 is greedy.
        refusal_token: S.
        refuse_above: the operating point b; a row that it refuses has no tokens.
        virtual_tokens: P x D, or None.
        score: give the log-probabilities.
        prefix: the keys and values of what all prompts begin with, where they are at hand.
        batch_size: rows that decode together.
    """
    prefix = SharedPrefix.run(lm, prompts, virtual_tokens) if prefix is None else prefix
    batch = _Batch(lm, prefix, virtual_tokens, min(batch_size, len(prompts)))
    waiting = deque(range(len(prompts)))
    uniform = torch.tensor(draws, device=drawing_device(lm.device))
    filling = True
    while waiting or batch.who:
        before = len(batch.who)
        filling = bool(waiting) and before < batch.size and (filling or before <= REFILL * batch.size)
        first = before if filling else 0  # of the rows that this pass is about
        states = batch.enter(waiting, prompts) if filling else batch.advance()
        entered = batch.who[first:] if filling else []
        logits = lm.head(states)
        opening: list[float] = []
        refused = [False] * len(states)
        if filling:
            s = lm.refusal_scores(states, logits, refusal_token)
            opening = s.tolist()
            if refuse_above is not None:
                refused = (s > refuse_above).tolist()
                logits[:, refusal_token] = -torch.inf
        tokens = choose(logits, temperature, uniform[batch.who[first:], batch.made[first:]])
        log_probs = (logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(-1)).tolist() if score else None
        chosen = tokens.tolist()
        answered = [row for row, no in enumerate(refused) if not no]
        yield Step(
            [batch.who[first + row] for row in answered],
            [chosen[row] for row in answered],
            states[answered] if len(answered) < len(states) else states,
            None if log_probs is None else [log_probs[row] for row in answered],
            entered,
            opening,
            refused if filling else (),
        )
        goes_on = [row for row in answered if chosen[row] not in lm.stop_ids and batch.made[first + row] + 1 < max_new_tokens]
        batch.take(first, chosen, goes_on)


class _Batch:
    """The rows that decode.

    Attributes:
        size: at most this many.
        who: their prompts' places.
        made: how many tokens each has, the last of them not yet in the cache.
    """

    def __init__(self, lm: LanguageModel, prefix: SharedPrefix, virtual_tokens: Tensor | None, size: int) -> None:
        self.size, self.who, self.made = size, list[int](), list[int]()
        self._lm, self._prefix, self._virtual_tokens = lm, prefix, virtual_tokens
        self._cache = RowCache(prefix, size)
        self._lengths: list[int] = []  # positions in the cache
        self._last: list[int] = []

    def enter(self, waiting: deque[int], prompts: Sequence[Sequence[int]]) -> Tensor:
        """Run the next prompts that there is room for; returns the states that predict their first tokens.

        They are padded behind, where no query of theirs looks.
        """
        rest: list[list[int]] = []
        width = 0
        while waiting and len(self.who) < self.size:
            ids = list(prompts[waiting[0]][self._prefix.ids :])
            width = max(width, len(ids))
            if rest and (len(rest) + 1) * width > PREFILL_TOKENS:
                break
            rest.append(ids)
            self.who.append(waiting.popleft())
        width, start, device = max(map(len, rest)), self._prefix.length, self._lm.device
        self.made += [0] * len(rest)
        self._lengths += [start + len(ids) for ids in rest]
        self._last += [0] * len(rest)
        self._cache.enter(len(rest), width)
        given = torch.tensor([ids + [0] * (width - len(ids)) for ids in rest], device=device)
        position = torch.arange(start, start + width, device=device)[None]
        states = self._run(self._lm.embed(given, self._virtual_tokens), position, start + width)
        return states[torch.arange(len(rest), device=device), torch.tensor([len(ids) - 1 for ids in rest], device=device)]

    def advance(self) -> Tensor:
        """Run the last token of each row; returns the states that predict the next."""
        position = torch.tensor(self._lengths, device=self._lm.device)
        width = max(self._lengths) + 1
        self._cache.advance(position, width)
        self._lengths = [length + 1 for length in self._lengths]
        return self._run(self._lm.embed(torch.tensor(self._last, device=self._lm.device)[:, None]), position[:, None], width)[
            :, 0
        ]

    def take(self, first: int, tokens: Sequence[int], goes_on: Sequence[int]) -> None:
        """Note the tokens of the rows from `first` on; of these only those in `goes_on`, counted from there, stay."""
        self.made[first:] = [made + 1 for made in self.made[first:]]
        self._last[first:] = tokens
        if len(goes_on) < len(tokens):
            order = self._cache.keep([*range(first), *(first + row for row in goes_on)])
            for values in (self.who, self.made, self._lengths, self._last):
                values[:] = [values[row] for row in order]

    def _run(self, embeds: Tensor, position: Tensor, columns: int) -> Tensor:
        states: Tensor = self._lm.body(
            inputs_embeds=embeds,
            attention_mask=self._lm.causal_mask(position, columns),
            position_ids=position,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        return states
