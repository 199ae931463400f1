"""The operating point: from which score on the student refuses, chosen on benign validation prompts alone."""

from collections.abc import Sequence
from typing import Any

from softguard.core.protocols import Progress
from softguard.data import PromptRow
from softguard.evaluation.metrics import matched_threshold
from softguard.evaluation.statistics import wilson_interval
from softguard.recipes.config import Config
from softguard.recipes.prompts import take
from softguard.recipes.student import ModelSystem


def operating_point(
    student: ModelSystem, validation: Sequence[PromptRow], config: Config, progress: Progress | None = None
) -> dict[str, Any]:
    """Return the threshold b that the config's `over_refusal_target` asks for, with what it was chosen on."""
    benign = [r for r in validation if r.label == "benign"]
    benign = take(benign, config.evaluation.calibration_prompts, config.data.seed)
    s = student.refusal_log_odds([r.conversation for r in benign], progress)
    return {
        "threshold": calibrate(s, config.evaluation.over_refusal_target),
        "over_refusal_target": config.evaluation.over_refusal_target,
        "calibrated_on": f"{len(benign)} benign validation prompts",
    }


def calibrate(benign_s: Sequence[float], target: float) -> float:
    """Return the lowest threshold b at which, with 95 % confidence, at most a share `target` of benign prompts has s > b.

    Of n validation prompts so many may be refused that the one-sided 95 % upper limit (Wilson) of the share is within `target`:
    7 of 450 at 0.03, none where n is too small even for that. b stands midway between the last refused and the first answered
    prompt (1 above the highest where none may be refused), so that neither is decided by rounding.
    """
    n = len(benign_s)
    answered = matched_threshold(benign_s, allowed_refusals(n, target) / n)
    refused = min((s for s in benign_s if s > answered), default=answered + 2.0)
    return float((refused + answered) / 2)


def allowed_refusals(n: int, target: float) -> int:
    """Return how many of n prompts may be refused: the one-sided 95 % upper limit (Wilson) of their share is within `target`."""
    return max((k for k in range(n) if wilson_interval(k, n, 0.9).high <= target), default=0)
