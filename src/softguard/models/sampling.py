"""Batched decoding with a KV cache: length-bucketed, left-padded, finished rows leave.

A row's randomness is a list of uniforms of its own, used by inverse transform: what it draws does not depend on which rows
share its batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from softguard.core.protocols import Progress
from softguard.models.language_model import LanguageModel
from softguard.models.shared_prefix import SharedPrefix

BLOCK = 256
"""Tokens of the vocabulary that are summed together where one is drawn."""


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


def uniforms(seed: int, key: str, count: int) -> np.ndarray:
    """Return `count` uniforms in [0, 1) keyed on (seed, key): the same in every batch, run and platform."""
    entropy = [seed, *key.encode()]
    return np.random.default_rng(np.random.SeedSequence(entropy)).random(count)


@torch.inference_mode()
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
    batch_size: int = 256,
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
        batch_size: rows that decode together; matrix products of many rows run at up to twice the rate of 32 on a CPU.
        progress: called with (done, total); within a batch `done` counts the tokens made, as so many prompts' worth.
    """
    out: dict[int, Generation] = {}
    for rows in _batches(lm, [len(p) for p in prompts], batch_size, max_new_tokens):
        draws = np.stack([uniforms(seed, keys[i], max_new_tokens) for i in rows])
        chosen = [prompts[i] for i in rows]
        tick = partial(_tick, progress, len(out), len(rows) / max_new_tokens, len(prompts)) if progress else None
        made = _decode(
            lm,
            chosen,
            draws,
            max_new_tokens,
            temperature,
            refusal_token,
            refuse_above,
            virtual_tokens,
            keep_states=keep_states,
            tick=tick,
        )
        out.update(zip(rows, made, strict=True))
        if progress:
            progress(len(out), len(prompts))
    return [out[i] for i in range(len(prompts))]


def _batches(lm: LanguageModel, lengths: Sequence[int], batch_size: int, max_new_tokens: int) -> list[list[int]]:
    """Return batches of indices, sorted by length. Where padding may cost a row its prefix, a batch has rows of one length."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        mixes = bool(batches) and lengths[batches[-1][0]] != lengths[i]
        cut = mixes and bool(lm.prefix) and not _within_window(lm, lengths[i], max_new_tokens)
        if batches and len(batches[-1]) < batch_size and not cut:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def _within_window(lm: LanguageModel, length: int, max_new_tokens: int) -> bool:
    """Return whether no layer's window cuts an answer to a prompt of so many ids.

    Windows are counted in columns of the batch: padding between a prefix and a row's own ids uses them up.
    """
    return lm.prefix_positions + length + max_new_tokens <= lm.window


def _tick(progress: Progress, done: int, rows_per_token: float, total: int, step: int) -> None:
    progress(done + int(step * rows_per_token), total)


def drawing_device(device: torch.device) -> torch.device:
    """Return where tokens are drawn: on the model's device, or on the CPU for Apple's MPS, which has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def log_odds(logits: Tensor, token: int) -> Tensor:
    """Return log p - log(1 - p) of one token for rows of logits, exactly: its logit minus the logsumexp of the others."""
    others = logits.clone()
    others[:, token] = -torch.inf
    return logits[:, token] - torch.logsumexp(others, dim=-1)


def _decode(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    draws: np.ndarray,
    max_new_tokens: int,
    temperature: float,
    refusal_token: int,
    refuse_above: float | None,
    virtual_tokens: Tensor | None,
    *,
    keep_states: bool,
    tick: Callable[[int], None] | None,
) -> list[Generation]:
    produced: list[list[int]] = [[] for _ in prompts]
    seen: list[list[Tensor]] = [[] for _ in prompts]
    log_prob = [0.0] * len(prompts)
    first, refused = [0.0] * len(prompts), [False] * len(prompts)
    steps = decode_steps(
        lm, prompts, draws, max_new_tokens, temperature, refusal_token, refuse_above, virtual_tokens, score=keep_states
    )
    for number, step in enumerate(steps):
        if tick:
            tick(number)
        if number == 0:
            first, refused = list(step.log_odds), list(step.refused)
        for row, (who, token) in enumerate(zip(step.rows, step.tokens, strict=True)):
            produced[who].append(token)
            if step.log_probs is not None:
                seen[who].append(step.states[row])
                log_prob[who] += step.log_probs[row]
    return [
        Generation(
            tuple(p),
            not r and p[-1] not in lm.stop_ids,
            s,
            r,
            torch.stack(seen[i]) if keep_states else None,
            log_prob[i] if keep_states else None,
        )
        for i, (p, s, r) in enumerate(zip(produced, first, refused, strict=True))
    ]


@dataclass(frozen=True)
class Step:
    """One token for each row of a batch that still decodes.

    Attributes:
        rows: their places in the batch.
        tokens: one for each of them.
        states: the final states that predict them, one for each of them.
        log_probs: nats at temperature 1, where asked for.
        log_odds: of the refusal's first token at the first position, for the whole batch; in the first step alone.
        refused: by the operating point, for the whole batch; in the first step alone.
    """

    rows: Sequence[int]
    tokens: Sequence[int]
    states: Tensor
    log_probs: Sequence[float] | None = None
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
) -> Iterator[Step]:
    """Give the tokens of one batch as they are made: one pass of the network between two of them. See `sample`.

    Args:
        lm: the model.
        prompts: rendered ids.
        draws: uniforms, rows x `max_new_tokens`.
        max_new_tokens: at most this many steps.
        temperature: 0 is greedy.
        refusal_token: S.
        refuse_above: the operating point b; a row that it refuses has no tokens.
        virtual_tokens: P x D, or None.
        score: give the log-probabilities.
        prefix: the keys and values of what all prompts begin with, where they are at hand.
    """
    device = lm.device
    if prefix is None:
        longest = max(map(len, prompts))
        padded = any(len(p) != longest for p in prompts)
        sharing = not padded or _within_window(lm, longest, max_new_tokens)
        prefix = SharedPrefix.run(lm, prompts if sharing else (), virtual_tokens)
    rest = [list(p[prefix.ids :]) for p in prompts]
    width = max(len(p) for p in rest)
    ids = torch.tensor([[0] * (width - len(p)) + p for p in rest], device=device)
    mask = torch.tensor([[1] * prefix.length + [0] * (width - len(p)) + [1] * len(p) for p in rest], device=device)
    position = (mask.cumsum(1) - 1).clamp(min=0)[:, prefix.length :]
    uniform = torch.tensor(draws, device=drawing_device(device))
    alive = list(range(len(prompts)))
    cache = prefix.cache(lm, len(prompts))
    embeds = lm.embed(ids, virtual_tokens)
    refused = [False] * len(prompts)
    for number in range(max_new_tokens):
        states = lm.body(
            inputs_embeds=embeds, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        logits = lm.head(states)
        opening: list[float] = []
        if number == 0:
            s = log_odds(logits, refusal_token)
            opening = s.tolist()
            if refuse_above is not None:
                refused = (s > refuse_above).tolist()
                logits[:, refusal_token] = -torch.inf
        tokens = _choose(logits, temperature, uniform[alive, number])
        log_probs = (logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(-1)).tolist() if score else None
        chosen = tokens.tolist()
        answered = [row for row, who in enumerate(alive) if not refused[who]]
        yield Step(
            [alive[row] for row in answered],
            [chosen[row] for row in answered],
            states[answered] if len(answered) < len(alive) else states,
            None if log_probs is None else [log_probs[row] for row in answered],
            opening,
            refused if number == 0 else (),
        )
        keep = [row for row in answered if chosen[row] not in lm.stop_ids]
        if not keep or number + 1 == max_new_tokens:
            return
        if len(keep) < len(alive):
            index = torch.tensor(keep, device=device)
            cache.batch_select_indices(index)
            mask, position, tokens = mask[index], position[index], tokens[index]
            alive = [alive[row] for row in keep]
        mask = torch.cat([mask, mask.new_ones(len(alive), 1)], 1)
        position = position[:, -1:] + 1
        embeds = lm.embed(tokens[:, None])


def _choose(logits: Tensor, temperature: float, uniform: Tensor) -> Tensor:
    """Return a token for each row: the likeliest at temperature 0, else by inverse transform of the row's uniform.

    The sum runs in float64 over blocks first and then within the one block that the draw falls into: a float64 cumulative sum
    over a whole vocabulary would take as long as the model's head.
    """
    if temperature == 0:
        return logits.argmax(-1)
    scaled = logits.to(uniform.device) if temperature == 1 else logits.to(uniform.device) / temperature
    weights = torch.softmax(scaled, -1)
    rows, size = weights.shape
    weights = F.pad(weights, (0, -size % BLOCK)).view(rows, -1, BLOCK)
    blocks = weights.sum(-1, dtype=torch.float64).cumsum(-1)
    target = uniform[:, None] * blocks[:, -1:]
    block = torch.searchsorted(blocks, target, right=True).clamp(max=blocks.shape[1] - 1)
    before = torch.where(block > 0, blocks.gather(1, (block - 1).clamp(min=0)), 0.0)
    within = weights[torch.arange(rows, device=weights.device), block.squeeze(1)].double().cumsum(-1)
    place = torch.searchsorted(within, target - before, right=True).clamp(max=BLOCK - 1)
    drawn = (block * BLOCK + place).clamp(max=size - 1).squeeze(1)
    return drawn.to(logits.device)
