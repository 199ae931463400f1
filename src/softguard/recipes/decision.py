"""The operating point as one row of the head: what an exported file decides by, and the run in memory, too (decision 0027)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softguard.data import PromptRow
from softguard.errors import CompatibilityError, DataError
from softguard.models import DecisionRow, response_states
from softguard.models.scoring import token_budget_batches
from softguard.recipes.calibration import allowed_refusals, calibrate
from softguard.recipes.config import Config
from softguard.recipes.distill import Report
from softguard.recipes.export_head import fitted_decision, student_states
from softguard.recipes.prompts import take
from softguard.recipes.student import ModelSystem

POSITIONS = 20_000
"""Of training prompts and answers after them, that a row is fitted to."""
_ROUNDS, _NEAR, _TOKENS = 12, 0.05, 4096


def row_operating_point(
    student: ModelSystem, train: Sequence[PromptRow], validation: Sequence[PromptRow], config: Config, report: Report
) -> dict[str, Any]:
    """Return the row, fitted to training prompts, that refuses as many benign validation prompts as the config allows.

    A row's point cannot be moved afterwards: no state has a number that is the same for all prompts. So the row is fitted to the
    decision at b, and b moved until the row's own refusals are as many as `calibrate` wants; of the rows that keep within that,
    the boldest is taken.

    Args:
        student: without an operating point.
        train: the prompts to fit to.
        validation: the prompts to choose on.
        config: of the run.
        report: told how far it is.

    Raises:
        CompatibilityError: a student whose refusal begins with a token that the head has no row for.
        DataError: no row keeps within the target.
    """
    if student.refusal_token >= len(student.lm.output_head.weight):
        todo = "calibrate it by its log-odds"
        raise CompatibilityError("a refusal that begins with a token of the model's vocabulary", "a control token", todo)
    benign = take([r for r in validation if r.label == "benign"], config.evaluation.calibration_prompts, config.data.seed)
    others = [r for r in validation if r.label != "benign"]
    target = config.evaluation.over_refusal_target
    allowed = allowed_refusals(len(benign), target)
    seen = first_states(student, [*benign, *others], report)
    s = student.lm.refusal_scores(seen, student.lm.head(seen), student.refusal_token)
    b = point = calibrate(s[: len(benign)].tolist(), target)
    states = student_states(student, train, POSITIONS, config.data.seed, report)
    found: tuple[int, float, Tensor, Tensor] | None = None
    for number in range(_ROUNDS):
        report("operating point: a row", number, _ROUNDS, {})
        row = fitted_decision(student, states, b)
        margins = replace(student.lm, decision=DecisionRow(row, 0.0)).refusal_scores(
            seen, student.lm.head(seen), student.refusal_token
        )
        shift = calibrate(margins[: len(benign)].tolist(), target)
        refused = int((margins[: len(benign)] > 0).sum())
        if refused <= allowed and (found is None or refused > found[0]):
            found = refused, b, row, margins
        if refused <= allowed and shift > -_NEAR:
            break
        b += shift if refused <= allowed else max(shift, _NEAR)
    report("operating point: a row", _ROUNDS, _ROUNDS, {})
    if found is None:
        todo = "train longer, or calibrate it by its log-odds"
        raise DataError(f"a row that refuses at most {allowed} of {len(benign)} benign validation prompts", "none", todo)
    refused, b, row, margins = found
    return {
        "threshold": b,
        "row": [float(np.float32(x)) for x in row.tolist()],
        "over_refusal_target": target,
        "calibrated_on": f"{len(benign)} benign validation prompts",
        "refused_of_them": refused,
        "agreement_with_log_odds": float(((margins > 0) == (s > point)).float().mean()),
    }


@torch.inference_mode()
def first_states(student: ModelSystem, rows: Sequence[PromptRow], report: Report) -> Tensor:
    """Return the final states at the first answer position of each prompt, N x D."""
    prompts = [student.prompt_ids(r.conversation) for r in rows]
    states: dict[int, Tensor] = {}
    with student.running() as lm:
        for batch in token_budget_batches([len(p) for p in prompts], _TOKENS):
            report("operating point", len(states), len(prompts), {})
            part = [prompts[i] for i in batch]
            found = response_states(lm, part, [[0]] * len(part), student.virtual_tokens, token_budget=_TOKENS)
            states |= dict(zip(batch, found.states, strict=True))
    report("operating point", len(prompts), len(prompts), {})
    return torch.stack([states[i] for i in range(len(prompts))])
