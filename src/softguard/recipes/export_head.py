"""The head rows of an export: where the student's final states are, and what is fitted to them.

The states are those of our training and validation prompts, and of answers forced after them: half of written text, half of
random tokens, so that the bound on virtual tokens is tried far from home too. Test prompts play no part: verification uses them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from softguard.data import PromptRow
from softguard.export.head import FirstPositions, HeadRows, refusal_shift, silent_row
from softguard.models import response_states
from softguard.recipes.distill import Report
from softguard.recipes.prompts import own_prompts
from softguard.recipes.student import ModelSystem

_BATCH = 12
_ANSWER_TOKENS = 16
_ELSEWHERE = 4000


@dataclass(frozen=True)
class StudentStates:
    """`first`, N x D: of the first answer positions; `elsewhere`, M x D: of all other positions of real tokens."""

    first: Tensor
    elsewhere: Tensor

    @property
    def all(self) -> Tensor:
        """Both, (N + M) x D."""
        return torch.cat([self.first, self.elsewhere])


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
    return StudentStates(torch.stack(first).float(), torch.cat(elsewhere).float())


def fitted_rows(student: ModelSystem, states: StudentStates, seed: int) -> HeadRows:
    """Return the rows to bake. Without a threshold the refusal's first token is left as it is."""
    head = student.lm.output_head
    silent = silent_row(head, states.all)
    if student.threshold is None:
        return HeadRows(silent, torch.zeros_like(silent))
    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(states.elsewhere), generator=generator)[:_ELSEWHERE]
    at_first = FirstPositions.of(states.first, head, student.refusal_token)
    chosen = states.elsewhere[some.to(states.elsewhere.device)]
    return HeadRows(silent, refusal_shift(at_first, chosen, student.threshold, head.scale))


def fitting_prompts() -> list[PromptRow]:
    """Return our prompts of training and validation."""
    return own_prompts("train") + own_prompts("validation")


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many first ids all prompts share, at least 1 and at most all but one of the shortest."""
    limit = min(len(p) for p in prompts) - 1
    return next((i for i in range(limit) if len({p[i] for p in prompts}) > 1), limit) or 1
