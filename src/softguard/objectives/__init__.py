"""Objectives: pure functions of tensors. A new one is one file here with its config and `@OBJECTIVES.register`."""

from softguard.objectives.protocol import (
    OBJECTIVES,
    Branch,
    Need,
    Objective,
    ObjectiveInput,
    ObjectiveOutput,
    OnPolicyObjective,
    Outcomes,
    Samples,
    Sampling,
)
from softguard.registry import discover

discover(__name__, list(__path__))

__all__ = [
    "OBJECTIVES",
    "Branch",
    "Need",
    "Objective",
    "ObjectiveInput",
    "ObjectiveOutput",
    "OnPolicyObjective",
    "Outcomes",
    "Samples",
    "Sampling",
]
