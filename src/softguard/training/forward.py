"""From a batch of examples to what an objective is given."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from softguard.adapters import Adapter
from softguard.models import LanguageModel, ResponseStates, response_states
from softguard.models.scoring import token_budget_batches
from softguard.objectives import Branch, Objective, ObjectiveInput, Outcomes
from softguard.objectives.dense import OMITTED
from softguard.training.examples import Example

TEXT_TOKENS = 512
"""Tokens of prompts that go through the body together where the prompts themselves are scored: they share one row."""


def objective_input(
    lm: LanguageModel,
    adapter: Adapter,
    objective: Objective,
    examples: Sequence[Example],
    refusal_ids: Sequence[int],
    token_budget: int,
) -> ObjectiveInput:
    """Return the student's states along both branches with the teacher's beside them.

    Both branches of all rows go through the body together; the head runs on response positions only. A branch whose
    weight is not above the objective's `branch_floor` is left out, except that every row keeps at least one: its first
    position carries the decision. Of an objective on its own samples the answer is run in every row and nothing else; one on
    the prompts' text is given no branches.
    """
    device, needs, limit = lm.device, objective.needs, objective.answer_tokens or None
    refusal_ids = adapter.refusal(lm, plain := tuple(refusal_ids))
    alpha = torch.tensor([e.record.alpha for e in examples], device=device, dtype=torch.float32)
    said = _alternatives(examples, plain, refusal_ids)
    branches, floor = "sequence" in needs, objective.branch_floor
    answers = [i for i, e in enumerate(examples) if "on_policy" in needs or (branches and e.record.alpha > floor)]
    instead = _run_anyway(said, answers, floor, len(examples)) if branches else []
    responses = [list(examples[i].record.response_ids[:limit]) for i in answers]
    split = sum(len(answer) for answer in responses)
    responses += [list(said[k].ids) for k in instead]
    scored = _student_states(lm, adapter, examples, [*answers, *(said[k].row for k in instead)], responses, token_budget)
    number = torch.tensor([*answers, *instead], device=device, dtype=torch.long)[scored.row]
    teacher = None
    if "dense" in needs:
        cached = [examples[i].record.base_states()[:limit] for i in answers]
        teacher = torch.cat(cached).to(device, lm.dtype) if cached else scored.states[:0].detach()
    head, states, targets, position = lm.output_head, scored.states, scored.targets, scored.position
    first = first_teacher = alpha.new_zeros(len(examples), 0)
    if branches:
        prompt = torch.tensor([*answers, *(said[k].row for k in instead)], device=device)[scored.row]
        first = head.logits(states[_first_positions(prompt, position, len(examples))])
    if branches and "dense" in needs:
        with torch.no_grad():
            first_teacher = head.logits(torch.stack([e.record.base_states()[0] for e in examples]).to(device, lm.dtype))
            # A token that the base model lacks has probability 0 there.
            first_teacher = F.pad(first_teacher, (0, first.shape[1] - first_teacher.shape[1]), value=OMITTED)
    policy = Outcomes(
        torch.tensor([a.row for a in said], device=device),
        alpha.new_tensor([a.weight for a in said]),
        torch.tensor([a.ids[0] for a in said], device=device),
    )
    return ObjectiveInput(
        alpha=alpha,
        answer=Branch(head, states[:split], targets[:split], number[:split], position[:split], teacher),
        refusal=Branch(head, states[split:], targets[split:], number[split:], position[split:]),
        first_logits=first,
        first_teacher_logits=first_teacher,
        refusal_token=refusal_ids[0],
        base_answer_log_prob=_known(alpha, [e.record.log_prob for e in examples]),
        base_refusal_log_prob=_known(alpha, [e.record.refusal_log_prob for e in examples]),
        text=_text_branch(lm, adapter, examples) if "text" in needs else None,
        policy=policy if any(e.record.outcomes for e in examples) else None,
    )


@dataclass(frozen=True)
class _Alternative:
    """Something that the teacher may say instead of y to the prompt of a row."""

    row: int
    weight: float
    ids: Sequence[int]


def _alternatives(examples: Sequence[Example], plain: tuple[int, ...], refusal_ids: Sequence[int]) -> list[_Alternative]:
    """Return the outcomes of all rows: what their records name, else the refusal.

    `refusal_ids` is how the student says `plain`, the refusal, by whichever way it comes.
    """
    out = []
    for row, example in enumerate(examples):
        named = [(o.weight, tuple(o.response_ids)) for o in example.record.outcomes] or [(1 - example.record.alpha, plain)]
        out += [_Alternative(row, weight, refusal_ids if ids == plain else ids) for weight, ids in named]
    return out


def _run_anyway(said: Sequence[_Alternative], answers: Sequence[int], floor: float, rows: int) -> list[int]:
    """Return the outcomes above the floor, and the likeliest of each row that would have no branch at all without it."""
    out = {k for k, a in enumerate(said) if a.weight > floor}
    bare = set(range(rows)) - set(answers) - {said[k].row for k in out}
    for row in bare:
        out.add(max((k for k, a in enumerate(said) if a.row == row), key=lambda k: said[k].weight))
    return sorted(out)


def _student_states(
    lm: LanguageModel,
    adapter: Adapter,
    examples: Sequence[Example],
    rows: Sequence[int],
    responses: Sequence[Sequence[int]],
    token_budget: int,
) -> ResponseStates:
    """Return the student's states that predict `responses` to the prompts of `rows`."""
    if not rows:
        none = torch.zeros(0, dtype=torch.long, device=lm.device)
        return ResponseStates(torch.zeros(0, lm.width, dtype=lm.dtype, device=lm.device), none, none, none)
    prompts = [adapter.extend(e.prompt) for e in examples]
    with adapter.attach(lm) as student:
        virtual = adapter.virtual_tokens()
        return response_states(student, [prompts[i] for i in rows], responses, virtual, token_budget=token_budget)


def _text_branch(lm: LanguageModel, adapter: Adapter, examples: Sequence[Example]) -> Branch:
    """Return the prompts' own tokens, all but the first that nothing stands before; virtual tokens are no targets."""
    prompts = [adapter.extend(e.prompt) for e in examples]
    front = next((k for k, token in enumerate(prompts[0]) if token >= 0), 0) or 1
    parts: list[ResponseStates] = []
    numbers: list[int] = []
    with adapter.attach(lm) as student:
        virtual = adapter.virtual_tokens()
        # The prompts begin alike, so that all of a call share one row: it must not grow with the batch.
        for batch in token_budget_batches([len(p) for p in prompts], TEXT_TOKENS):
            given = [prompts[i] for i in batch]
            parts.append(response_states(student, [p[:front] for p in given], [p[front:] for p in given], virtual))
            numbers += [batch[k] for k in parts[-1].row.tolist()]
    states, targets, position = (torch.cat([getattr(p, name) for p in parts]) for name in ("states", "targets", "position"))
    real = targets >= 0
    row = torch.tensor(numbers, device=lm.device)
    return Branch(lm.output_head, states[real], targets[real], row[real], position[real])


def _known(alpha: Tensor, values: Sequence[float | None]) -> Tensor | None:
    """Return the values as a tensor where all are known."""
    return None if any(v is None for v in values) else alpha.new_tensor([v for v in values if v is not None])


def _first_positions(row: Tensor, position: Tensor, rows: int) -> Tensor:
    """Return for each row an index of a position 0 (either branch: the state is the same)."""
    where = torch.full((rows,), -1, device=row.device)
    starts = (position == 0).nonzero().squeeze(1)
    where[row[starts]] = starts
    return where
