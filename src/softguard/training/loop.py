"""The loop: batches -> body -> objective -> Adam on the adapter, with validation, checkpoints and exact resume.

Processes that were launched together (`core.processes`) share the forward passes of each step and nothing else: all see the same
stream of batches and take the same step, so that W is what one process makes of it, to rounding.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from softguard.adapters import Adapter
from softguard.core.files import write_atomically
from softguard.core.processes import processes
from softguard.errors import TrainingError
from softguard.models import LanguageModel, RenderedPrompt
from softguard.objectives import Objective, ObjectiveInput
from softguard.training.checkpoint import load_checkpoint, save_checkpoint
from softguard.training.config import TrainingConfig
from softguard.training.examples import Example, batches
from softguard.training.fitness import check_fit, check_same_everywhere
from softguard.training.forward import objective_input
from softguard.training.gradients import sum_gradients
from softguard.training.on_policy import Drawn, OnPolicy, Weigher
from softguard.training.validation import ValidationScore, validate

StepProgress = Callable[[int, int, dict[str, float]], None]
POSITIONS = 8
"""Response positions whose negative log-likelihood is logged one by one; later ones share a mean."""
DIVERGED_STEPS, DIVERGED_FACTOR, DIVERGED_FLOOR = 20, 4.0, 0.1
"""Training stops when so many losses in a row exceed this factor times the best mean of as many; below the floor all is noise."""


@dataclass(frozen=True)
class TrainingResult:
    """The adapter holds its best state; `history` has a row for each step; `seconds` has validation in it."""

    best: ValidationScore
    best_step: int
    history: list[dict[str, Any]]
    seconds: float


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Return the rate of a step (from 0): linear warm-up, then a cosine from the peak to a tenth of it."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def train(
    lm: LanguageModel,
    adapter: Adapter,
    objective: Objective,
    examples: Sequence[Example],
    validation: tuple[Sequence[RenderedPrompt], Sequence[RenderedPrompt], Sequence[Example]],
    refusal_ids: Sequence[int],
    config: TrainingConfig,
    folder: Path,
    progress: StepProgress | None = None,
    weigher: Weigher | None = None,
    validating: Callable[[int, int, int], None] | None = None,
) -> TrainingResult:
    """Train the adapter in place and leave it at its best validated state.

    Args:
        lm: the frozen model.
        adapter: what learns.
        objective: the loss.
        examples: training prompts with their teacher records, of both kinds.
        validation: harmful and look-alike prompts for the AUC, examples for the drift.
        refusal_ids: y_r with its turn end.
        config: the settings.
        folder: for `metrics.jsonl` and `checkpoints/`; a run that was killed goes on from there, bit for bit.
        progress: called with (step, steps, latest figures), in the main process.
        weigher: judges the student's own responses, where the objective or `on_policy_fraction` asks for them.
        validating: called with (step, prompts done, prompts) within a validation.

    Raises:
        CompatibilityError, ConfigError, DataError: what is given does not fit together (`check_fit`), or is not the same in all
            processes; before anything is done.
        GuardError: a step whose responses the guard did not grade.
        TrainingError: a loss or gradient that is not finite, or a loss that `diverged`; the history is written and the last good
            checkpoint kept.
    """
    check_fit(lm, objective, examples, config, weigher)
    together, fresh = processes(), None
    if weigher is not None and ("on_policy" in objective.needs or config.on_policy_fraction > 0):
        fresh = OnPolicy(lm, adapter, objective, weigher, config, refusal_ids)
    groups = [{"params": adapter.parameters()}, *(fresh.parameter_groups() if fresh else [])]
    parameters = [p for group in groups for p in group["params"]]
    optimiser = torch.optim.Adam(groups, lr=config.learning_rate, eps=config.adam_epsilon)
    latest, best_path = folder / "checkpoints" / "latest.safetensors", folder / "checkpoints" / "best.safetensors"
    state: dict[str, Any] = {"step": 0, "best": None, "history": [], "seconds": 0.0}
    if together.from_main(latest.exists):
        state = load_checkpoint(latest, parameters, optimiser)
    check_same_everywhere(examples, refusal_ids, config, parameters)
    stream = batches(examples, config.batch_size, config.harmful_share, config.seed)
    next(islice(stream, state["step"] * config.accumulation, state["step"] * config.accumulation), None)
    while state["step"] < config.steps:
        started = time.perf_counter()
        step = int(state["step"])
        rows = [[examples[i] for i in next(stream)] for _ in range(config.accumulation)]
        drawn = fresh.draw(rows, step, state["history"]) if fresh else Drawn(together.share(rows), {})
        taken = [
            optimiser_step(lm, adapter, objective, drawn.batches, refusal_ids, config, optimiser, step, fresh)
            for _ in range(fresh.updates if fresh else 1)
        ]
        figures = {**_means(taken), **drawn.figures}
        seconds = round(state["seconds"] + time.perf_counter() - started, 2)
        row: dict[str, Any] = {"step": step + 1, "seconds": seconds, **figures}
        state["history"].append(row)
        if fault := _fault(state["history"], "on_policy" not in objective.needs):
            if together.is_main:
                write_history(folder / "metrics.jsonl", state["history"])
            together.wait()  # the first to fail ends the others
            raise _error(fault, rows, step, (latest, best_path))
        validated = (step + 1) % config.validate_every == 0 or step + 1 == config.steps
        if validated:
            told = partial(validating, step + 1) if validating else None
            token = adapter.refusal(lm, refusal_ids)[0]
            given = (*validation, token, config.drift_weight, config.token_budget, told)
            score = together.from_main(partial(validate, lm, adapter, *given))
            row |= {f"validation_{k}": v for k, v in score.to_dict().items()}
        state["step"] = step + 1
        state["seconds"] += time.perf_counter() - started
        row["seconds"] = round(state["seconds"], 2)
        if validated:
            tensors = {str(i): p for i, p in enumerate(parameters)}
            if state["best"] is None or score.score > state["best"]["score"]:
                state["best"] = {**asdict(score), "step": step + 1}
                save_checkpoint(best_path, tensors, optimiser, state)
            save_checkpoint(latest, tensors, optimiser, state)
            if together.is_main:
                write_history(folder / "metrics.jsonl", state["history"])
        if progress and together.is_main:
            progress(step + 1, config.steps, state["history"][-1])
    load_checkpoint(best_path, parameters, optimiser)
    best = dict(state["best"])
    best_step = int(best.pop("step"))
    return TrainingResult(ValidationScore(**best), best_step, state["history"], state["seconds"])


def diverged(losses: Sequence[float]) -> bool:
    """Return whether each of the last `DIVERGED_STEPS` losses exceeds `DIVERGED_FACTOR` times the best running mean before them.

    The running mean is over as many steps, so that one lucky batch sets no mark; its floor keeps losses near 0, and those below
    it that an objective without clips can have, from being compared with almost nothing.
    """
    recent, before = losses[-DIVERGED_STEPS:], losses[:-DIVERGED_STEPS]
    if len(before) < DIVERGED_STEPS:
        return False
    best = float(np.convolve(before, np.full(DIVERGED_STEPS, 1 / DIVERGED_STEPS), "valid").min())
    return min(recent) > DIVERGED_FACTOR * max(best, DIVERGED_FLOOR)


def _fault(history: Sequence[Mapping[str, float]], comparable: bool) -> str:
    """Return what is wrong with the last step, empty where nothing is.

    `comparable`: the losses measure how far the student is. That of a policy gradient is centred on what was drawn at its step.
    """
    loss, norm = history[-1]["loss"], history[-1]["gradient_norm"]
    if not (math.isfinite(loss) and math.isfinite(norm)):
        return f"loss {loss}, gradient norm {norm}"
    if comparable and diverged([row["loss"] for row in history]):
        return f"loss {loss:.3g}, for {DIVERGED_STEPS} steps above {DIVERGED_FACTOR:g} times its best mean,"
    return ""


def _error(fault: str, rows: Sequence[Sequence[Example]], step: int, checkpoints: Sequence[Path]) -> TrainingError:
    prompts = ", ".join(e.record.id for batch in rows for e in batch)
    kept = " and ".join(str(path) for path in checkpoints if path.exists())
    where = f"the last and the best checkpoint are {kept}" if kept else "there is no checkpoint yet"
    return TrainingError(
        "a loss and gradient that are finite and do not run away",
        f"{fault} at step {step + 1}, batch of {prompts}",
        f"lower training.learning_rate, with another --out (the drafts are kept); {where}",
    )


def optimiser_step(
    lm: LanguageModel,
    adapter: Adapter,
    objective: Objective,
    batches_of_rows: Sequence[Sequence[Example]],
    refusal_ids: Sequence[int],
    config: TrainingConfig,
    optimiser: torch.optim.Adam,
    step: int,
    fresh: OnPolicy | None = None,
) -> dict[str, float]:
    """Take one optimiser step and return its figures, each the mean over the passes that have it; no step where not finite.

    `batches_of_rows` are those of this process; gradient and figures are of all processes.
    """
    together = processes()
    passes = sum(together.gather([len(batches_of_rows)]))
    optimiser.zero_grad(set_to_none=True)
    figures: list[dict[str, float]] = []
    for rows in batches_of_rows:
        batch = objective_input(lm, adapter, objective, rows, refusal_ids, config.token_budget)
        output = objective(fresh.complete(batch, rows) if fresh else batch)
        torch.autograd.backward(output.loss / passes)
        figures.append({"loss": float(output.loss.detach()), **output.metrics, **nll_by_position(batch)})
    sum_gradients([p for group in optimiser.param_groups for p in group["params"]])
    norm = float(torch.nn.utils.clip_grad_norm_(adapter.parameters(), config.gradient_clip))
    rate = learning_rate(config, step)
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)
    means = _means(together.gather(figures))
    if math.isfinite(norm) and math.isfinite(means["loss"]):
        optimiser.step()
    return {**means, "gradient_norm": norm, "learning_rate": rate}


def _means(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each figure over those that have it."""
    gathered: dict[str, list[float]] = {}
    for one in figures:
        for name, value in one.items():
            gathered.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in gathered.items()}


def nll_by_position(batch: ObjectiveInput) -> dict[str, float]:
    """Return the mean negative log-likelihood of each branch at its first `POSITIONS` positions and at later ones, in nats."""
    out: dict[str, float] = {}
    for name, branch in (("answer", batch.answer), ("refusal", batch.refusal)):
        nll, place = -branch.observed_log_probs(), branch.position.clamp(max=POSITIONS)
        total, count = (nll.new_zeros(POSITIONS + 1).index_add(0, place, x).tolist() for x in (nll, torch.ones_like(nll)))
        labels = [*(str(i + 1) for i in range(POSITIONS)), "later"]
        out |= {f"nll_{name}_{label}": t / n for label, t, n in zip(labels, total, count, strict=True) if n}
    return out


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """Write the rows; a figure that is not finite is null, since JSON has no NaN."""
    rows = ({k: v if math.isfinite(v) else None for k, v in row.items()} for row in history)
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))
