"""The one training loop. It knows protocols only: which adapter, objective or model it serves it never asks."""

from softguard.training.config import TrainingConfig
from softguard.training.examples import Example
from softguard.training.fitness import check_fit, check_same_tokenizer, check_shares
from softguard.training.fitting import fit
from softguard.training.loop import TrainingResult, optimiser_step, train
from softguard.training.on_policy import Weigher
from softguard.training.validation import ValidationScore

__all__ = [
    "Example",
    "TrainingConfig",
    "TrainingResult",
    "ValidationScore",
    "Weigher",
    "check_fit",
    "check_same_tokenizer",
    "check_shares",
    "fit",
    "optimiser_step",
    "train",
]
