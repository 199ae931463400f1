"""From a batch of examples to what an objective is given."""

from collections.abc import Sequence

import torch
from torch import Tensor

from softguard.adapters import Adapter
from softguard.models import LanguageModel, response_states
from softguard.objectives import Branch, Objective, ObjectiveInput
from softguard.training.examples import Example


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
    position carries the decision.
    """
    device = lm.device
    alpha = torch.tensor([e.record.alpha for e in examples], device=device, dtype=torch.float32)
    prompts = [adapter.extend(e.prompt) for e in examples]
    floor = objective.branch_floor
    answer_rows = [i for i, e in enumerate(examples) if e.record.alpha > floor]
    refusal_rows = [i for i, e in enumerate(examples) if 1 - e.record.alpha > floor]
    limit = objective.answer_tokens or None
    answers = [list(examples[i].record.response_ids[:limit]) for i in answer_rows]
    responses = answers + [list(refusal_ids)] * len(refusal_rows)
    rows = answer_rows + refusal_rows
    with adapter.attach(lm) as student:
        virtual = adapter.virtual_tokens()
        scored = response_states(student, [prompts[i] for i in rows], responses, virtual, token_budget=token_budget)
    split = sum(len(answer) for answer in answers)
    row = torch.tensor(rows, device=device)[scored.row]
    teacher = None
    if "dense" in objective.needs:
        cached = [examples[i].record.states[:limit] for i in answer_rows]
        teacher = torch.cat(cached).to(device, lm.dtype) if cached else scored.states[:0].detach()
    head = lm.output_head
    with torch.no_grad():
        first_teacher = head.logits(torch.stack([e.record.states[0] for e in examples]).to(device, lm.dtype))
    return ObjectiveInput(
        alpha=alpha,
        answer=Branch(head, scored.states[:split], scored.targets[:split], row[:split], scored.position[:split], teacher),
        refusal=Branch(head, scored.states[split:], scored.targets[split:], row[split:], scored.position[split:]),
        first_logits=head.logits(scored.states[_first_positions(row, scored.position, len(examples))]),
        first_teacher_logits=first_teacher,
        refusal_token=refusal_ids[0],
    )


def _first_positions(row: Tensor, position: Tensor, rows: int) -> Tensor:
    """Return for each row an index of a position 0 (either branch: the state is the same)."""
    where = torch.full((rows,), -1, device=row.device)
    starts = (position == 0).nonzero().squeeze(1)
    where[row[starts]] = starts
    return where
