"""The one training loop. It knows protocols only: which adapter, objective or model it serves it never asks."""

from softguard.training.config import TrainingConfig
from softguard.training.examples import Example
from softguard.training.fitting import fit
from softguard.training.loop import TrainingResult, optimiser_step, train

__all__ = ["Example", "TrainingConfig", "TrainingResult", "fit", "optimiser_step", "train"]
