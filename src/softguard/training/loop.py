"""The loop: batches -> body -> objective -> Adam on the adapter, with validation, checkpoints and exact resume."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from softguard.adapters import Adapter
from softguard.errors import DataError, TrainingError
from softguard.models import LanguageModel
from softguard.objectives import Objective
from softguard.training.checkpoint import load_checkpoint, save_checkpoint
from softguard.training.config import TrainingConfig
from softguard.training.examples import Example, batches
from softguard.training.forward import objective_input
from softguard.training.validation import ValidationScore, validate

StepProgress = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class TrainingResult:
    """The adapter holds its best state; `history` has a row for each step and validation."""

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
    validation: tuple[Sequence[Example], Sequence[Example], Sequence[Example]],
    refusal_ids: Sequence[int],
    config: TrainingConfig,
    folder: Path,
    progress: StepProgress | None = None,
) -> TrainingResult:
    """Train the adapter in place and leave it at its best validated state.

    Args:
        lm: the frozen model.
        adapter: what learns.
        objective: the loss.
        examples: training prompts with their teacher records, of both kinds.
        validation: harmful, look-alike and drift examples.
        refusal_ids: y_r with its turn end.
        config: the settings.
        folder: for `metrics.jsonl` and `checkpoints/`; a run that was killed goes on from there, bit for bit.
        progress: called with (step, steps, latest figures).

    Raises:
        DataError: the examples are all of one kind.
        TrainingError: a loss or gradient that is not finite; the last good checkpoint is kept.
    """
    if len({e.harmful for e in examples}) != 2:
        raise DataError("harmful and benign training prompts", f"{len(examples)} of one kind", "add the other kind")
    parameters = adapter.parameters()
    optimiser = torch.optim.Adam(parameters, lr=config.learning_rate, eps=config.adam_epsilon)
    latest, best_path = folder / "checkpoints" / "latest.safetensors", folder / "checkpoints" / "best.safetensors"
    state: dict[str, Any] = {"step": 0, "best": None, "history": [], "seconds": 0.0}
    if latest.exists():
        state = load_checkpoint(latest, parameters, optimiser)
    stream = batches(examples, config.batch_size, config.harmful_share, config.seed)
    next(islice(stream, state["step"] * config.accumulation, state["step"] * config.accumulation), None)
    with adapter.attach(lm):
        while state["step"] < config.steps:
            started = time.perf_counter()
            step = int(state["step"])
            figures = _step(lm, adapter, objective, examples, stream, refusal_ids, config, optimiser, step, latest)
            state["step"] = step + 1
            state["seconds"] += time.perf_counter() - started
            state["history"].append({"step": step + 1, "seconds": round(state["seconds"], 2), **figures})
            if (step + 1) % config.validate_every == 0 or step + 1 == config.steps:
                score = validate(lm, adapter, *validation, refusal_ids[0], config.drift_weight)
                state["history"][-1] |= {f"validation_{k}": v for k, v in score.to_dict().items()}
                tensors = {str(i): p for i, p in enumerate(parameters)}
                if state["best"] is None or score.score > state["best"]["score"]:
                    state["best"] = {**score.to_dict(), "step": step + 1}
                    save_checkpoint(best_path, tensors, optimiser, state)
                save_checkpoint(latest, tensors, optimiser, state)
                _write_history(folder / "metrics.jsonl", state["history"])
            if progress:
                progress(step + 1, config.steps, state["history"][-1])
    load_checkpoint(best_path, parameters, optimiser)
    best = dict(state["best"])
    best_step = int(best.pop("step"))
    return TrainingResult(ValidationScore(**best), best_step, state["history"], state["seconds"])


def _step(
    lm: LanguageModel,
    adapter: Adapter,
    objective: Objective,
    examples: Sequence[Example],
    stream: Any,
    refusal_ids: Sequence[int],
    config: TrainingConfig,
    optimiser: torch.optim.Adam,
    step: int,
    latest: Path,
) -> dict[str, float]:
    """Take one optimiser step and return its figures."""
    parameters = adapter.parameters()
    optimiser.zero_grad(set_to_none=True)
    figures: dict[str, float] = {}
    for _ in range(config.accumulation):
        rows = [examples[i] for i in next(stream)]
        batch = objective_input(lm, adapter, objective, rows, refusal_ids, config.token_budget)
        output = objective(batch)
        torch.autograd.backward(output.loss / config.accumulation)
        for name, value in {"loss": float(output.loss.detach()), **output.metrics, **_by_position(batch)}.items():
            figures[name] = figures.get(name, 0.0) + value / config.accumulation
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, config.gradient_clip))
    if not (math.isfinite(norm) and math.isfinite(figures["loss"])):
        kept = f"the last good state is {latest}" if latest.exists() else "there is no earlier state"
        raise TrainingError(
            "a finite loss and gradient",
            f"loss {figures['loss']}, norm {norm} at step {step + 1}",
            f"lower the rate; {kept}",
        )
    rate = learning_rate(config, step)
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    return {**figures, "gradient_norm": norm, "learning_rate": rate}


def _by_position(batch: Any) -> dict[str, float]:
    """Return the mean negative log-likelihood of each branch at its first, second and later positions, in nats."""
    out = {}
    for name, branch in (("answer", batch.answer), ("refusal", batch.refusal)):
        if len(branch.targets) == 0:
            continue
        nll = -branch.log_probs().detach()
        for label, where in (("1", branch.position == 0), ("2", branch.position == 1), ("later", branch.position > 1)):
            if where.any():
                out[f"nll_{name}_{label}"] = float(nll[where].mean())
    return out


def _write_history(path: Path, history: list[dict[str, Any]]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in history))
    partial.replace(path)
