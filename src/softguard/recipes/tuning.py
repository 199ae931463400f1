"""What `auto` comes to in a run: what its folder began with, else what is measured here once the model is loaded.

A run's config names what was used, so that it goes on, and repeats, without a measurement.
"""

from pathlib import Path
from typing import Any

import torch

from softguard.core.processes import processes
from softguard.core.protocols import Progress
from softguard.models import AUTO, LanguageModel, tune, use_kernel
from softguard.recipes.config import Config
from softguard.runs import RunDir

LEFT_OPEN: dict[str, Any] = {"dtype": AUTO, "attention": AUTO, "threads": 0}
"""The settings of `model` that a machine decides, and the values that say so."""


def as_begun(config: Config, out: Path) -> Config:
    """Return the config with what it leaves open as a run in `out` has it: on any machine a run goes on as it began.

    Raises:
        RunError: the config of the run cannot be read.
    """
    if not (out / "config.toml").exists():
        return config
    begun = RunDir(out).config.get("model", {})
    taken = {key: begun[key] for key, value in LEFT_OPEN.items() if getattr(config.model, key) == value and key in begun}
    return config.model_copy(update={"model": config.model.model_copy(update=taken)})


def tuned(config: Config, lm: LanguageModel, progress: Progress | None = None) -> Config:
    """Return the config with the attention kernel and the threads that are to be used, measured where it leaves them open.

    Of several processes on one machine each keeps the threads that the launcher gave it: alone, one would measure too many.
    """
    threads = config.model.threads or (torch.get_num_threads() if processes().count > 1 else 0)
    found = tune(lm, config.model.attention, threads, progress=progress)
    chosen = {"attention": found.attention, "threads": found.threads}
    return config.model_copy(update={"model": config.model.model_copy(update=chosen)})


def apply(config: Config, lm: LanguageModel) -> None:
    """Let a loaded model and this process use what a tuned config says."""
    use_kernel(lm.network, config.model.attention)
    torch.set_num_threads(config.model.threads)
