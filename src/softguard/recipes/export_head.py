"""The rows of an export: where the student's final states are, and what is fitted to them.

The states are those of our training and validation prompts, and of answers forced after them: half of written text, half of
random tokens, so that the bound on virtual tokens is tried far from home too. Test prompts play no part: verification uses them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from softguard.data import PromptRow
from softguard.export.head import RealLogits, silent_row
from softguard.export.refusal_entry import BakedRows, FirstPositions, RefusalEntry, decision_row, muted_first
from softguard.models import LanguageModel, response_states
from softguard.recipes.distill import Report
from softguard.recipes.prompts import own_prompts
from softguard.recipes.student import ModelSystem

_BATCH = 12
_ANSWER_TOKENS = 16
_ENDING_PROMPTS, _ENDING_STEPS, _ENDING_RATE = 96, 80, 0.1


@dataclass(frozen=True)
class StudentStates:
    """`first`, N x D: of the first answer positions; `elsewhere`, M x D: of all others of real tokens; and their logits."""

    first: Tensor
    elsewhere: Tensor
    first_logits: RealLogits
    elsewhere_logits: RealLogits

    @property
    def all(self) -> Tensor:
        """Both, (N + M) x D."""
        return torch.cat([self.first, self.elsewhere])

    @property
    def all_logits(self) -> RealLogits:
        """Of both."""
        a, b = self.first_logits, self.elsewhere_logits
        return RealLogits(torch.cat([a.largest, b.largest]), torch.cat([a.total, b.total]))


@torch.inference_mode()
def student_states(student: ModelSystem, rows: Sequence[PromptRow], positions: int, seed: int, report: Report) -> StudentStates:
    """Return states at about `positions` positions, fewer where the prompts are not that many."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(rows))
    first, elsewhere, seen = [], [], 0
    vocabulary = min(len(student.lm.tokenizer), len(student.lm.embedding_weight))
    for start in range(0, len(order), _BATCH):
        report("export: states", min(seen, positions), positions, {})
        if seen >= positions:
            break
        part = [rows[i] for i in order[start : start + _BATCH]]
        prompts = [student.prompt_ids(r.conversation) for r in part]
        shared = _shared(prompts)
        texts = [
            student.renderer.encode_response(rows[i].prompt)[:_ANSWER_TOKENS] for i in rng.integers(len(rows), size=len(part))
        ]
        drawn = rng.integers(vocabulary, size=(len(part), _ANSWER_TOKENS)).tolist()
        answers = [text if k % 2 else noise for k, (text, noise) in enumerate(zip(texts, drawn, strict=True))]
        # The state of a position comes with the token after it: a token more brings the last one's.
        after = [[*p[shared:], *a, 0] for p, a in zip(prompts, answers, strict=True)]
        with student.running() as lm:
            found = response_states(lm, [prompts[0][:shared]] * len(part), after, student.virtual_tokens)
        for k, prompt in enumerate(prompts):
            states = found.states[found.row == k]
            inputs = torch.tensor([prompt[shared - 1], *after[k][:-1]])
            at = len(prompt) - shared
            keep = inputs >= 0
            keep[at] = False
            first.append(states[at])
            elsewhere.append(states[keep.to(states.device)])
            seen += int(keep.sum()) + 1
    report("export: states", positions, positions, {})
    head = student.lm.output_head
    at_first, other = torch.stack(first).float(), torch.cat(elsewhere).float()
    return StudentStates(at_first, other, RealLogits.of(head, at_first), RealLogits.of(head, other))


def fitted_rows(student: ModelSystem, states: StudentStates, rows: Sequence[PromptRow], seed: int) -> BakedRows:
    """Return the rows to bake. Without a threshold there is no entry for the refusal: the student decides by decoding alone."""
    head = student.lm.output_head
    silent = silent_row(head, states.all)
    if student.threshold is None:
        return BakedRows(silent, None)
    first = FirstPositions.of(states.first, head, student.refusal_token)
    row = student.decision.weights if student.decision else fitted_decision(student, states, student.threshold)
    muted = muted_first(first, states.elsewhere, states.elsewhere_logits, student.refusal_token, head)
    return BakedRows(silent, RefusalEntry(row, ending_vector(student, rows, seed), muted))


def fitted_decision(student: ModelSystem, states: StudentStates, threshold: float) -> Tensor:
    """Return the head row, D, that decides as nearly as a row can as the refusal log-odds do at `threshold`, in nats."""
    head = student.lm.output_head
    first = FirstPositions.of(states.first, head, student.refusal_token)
    return decision_row(first, states.elsewhere, states.elsewhere_logits, student.refusal_token, threshold, head)


def ending_vector(student: ModelSystem, rows: Sequence[PromptRow], seed: int) -> Tensor:
    """Return the vector, D, after which the model ends its turn, whatever the prompt was: the refusal's entry as an input.

    Adam from the embedding of the refusal's last token, on the log-probability of the end of the turn, over prompts whose keys
    and values are computed once: a step runs one position of each.
    """
    generator = np.random.default_rng(seed)
    chosen = [rows[i] for i in generator.permutation(len(rows))[:_ENDING_PROMPTS]]
    prompts = [student.prompt_ids(r.conversation) for r in chosen]
    last = student.renderer.encode_response(student.refusal_text)[-1]
    with student.running() as lm:
        runs = [prompt_run(lm, prompts[at : at + _BATCH], student.virtual_tokens) for at in range(0, len(prompts), _BATCH)]
        vector = lm.embed(torch.tensor([[last]], device=lm.device))[0, 0].detach().float().requires_grad_()
        optimiser = torch.optim.Adam([vector], lr=_ENDING_RATE * float(vector.detach().square().mean().sqrt()))
        for step in range(_ENDING_STEPS):
            optimiser.zero_grad()
            loss = -runs[step % len(runs)].end_log_probs(lm, vector).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return vector.detach()


@dataclass(frozen=True)
class PromptRun:
    """Keys and values of prompts, 1 x heads x length x width for each layer and row, padded on the left; `mask`, N x length."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    mask: Tensor

    def end_log_probs(self, lm: LanguageModel, vector: Tensor) -> Tensor:
        """Return log p(end of turn) after `vector`, D, at the first answer position of each prompt, N."""
        cache: Any = DynamicCache(config=lm.network.config)
        for index, (keys, values) in enumerate(self.layers):
            cache.update(keys, values, index)
        rows = len(self.mask)
        mask = torch.cat([self.mask, self.mask.new_ones(rows, 1)], 1)
        states = lm.body(
            inputs_embeds=vector.to(lm.dtype).expand(rows, 1, -1),
            attention_mask=mask,
            position_ids=mask.sum(1, keepdim=True) - 1,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        return torch.log_softmax(lm.head(states), -1)[:, lm.turn_end_id]


@torch.no_grad()
def prompt_run(lm: LanguageModel, prompts: Sequence[Sequence[int]], virtual_tokens: Tensor | None) -> PromptRun:
    """Run prompts and keep what attention needs of them."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=lm.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=lm.device)
    cache: Any = DynamicCache(config=lm.network.config)
    lm.body(
        inputs_embeds=lm.embed(ids, virtual_tokens),
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
    )
    return PromptRun(tuple((layer.keys.detach(), layer.values.detach()) for layer in cache.layers), mask)


def fitting_prompts() -> list[PromptRow]:
    """Return our prompts of training and validation."""
    return own_prompts("train") + own_prompts("validation")


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many first ids all prompts share, at least 1 and at most all but one of the shortest."""
    limit = min(len(p) for p in prompts) - 1
    return next((i for i in range(limit) if len({p[i] for p in prompts}) > 1), limit) or 1
