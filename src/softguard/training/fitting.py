"""What stands in the place of the loop for adapters that are fitted in closed form: one fit, one validation, the same result."""

import time
from collections.abc import Sequence
from pathlib import Path

from softguard.adapters.protocol import Adapter, Fitted
from softguard.errors import CompatibilityError
from softguard.models import LanguageModel, RenderedPrompt
from softguard.training.config import TrainingConfig
from softguard.training.examples import Example
from softguard.training.loop import StepProgress, TrainingResult, write_history
from softguard.training.validation import validate


def fit(
    lm: LanguageModel,
    adapter: Adapter,
    examples: Sequence[Example],
    validation: tuple[Sequence[RenderedPrompt], Sequence[RenderedPrompt], Sequence[Example]],
    refusal_ids: Sequence[int],
    config: TrainingConfig,
    folder: Path,
    progress: StepProgress | None = None,
) -> TrainingResult:
    """Fit the adapter in place (see `train` for the arguments); a run that was killed begins again, which takes one pass.

    Raises:
        CompatibilityError: the adapter is one that is trained.
        DataError: see the adapter's `fit`.
    """
    if not isinstance(adapter, Fitted):
        raise CompatibilityError("an adapter that is fitted", type(adapter).__name__, "train it")
    started = time.perf_counter()
    token = adapter.refusal(lm, refusal_ids)[0]

    def score() -> float:
        return validate(lm, adapter, *validation, token, config.drift_weight, config.token_budget).score

    adapter.fit(lm, [e.prompt for e in examples], [e.record.alpha for e in examples], score)
    best = validate(lm, adapter, *validation, token, config.drift_weight, config.token_budget)
    seconds = time.perf_counter() - started
    figures = {f"validation_{k}": v for k, v in best.to_dict().items()}
    history = [{"step": 1, "seconds": round(seconds, 2), **figures}]
    write_history(folder / "metrics.jsonl", history)
    if progress:
        progress(1, 1, figures)
    return TrainingResult(best, 1, history, seconds)
