"""Costs: what base, guarded system, student and hard system prompt cost a device, counted from the shape of a model.

One idea: everything follows from `pass_flops`, the matrix products of one forward pass, and from the positions that a system
adds; the convention is stated once, in `CONVENTION`. Times are measured in `recipes`, where systems are.
May import models, guards, core and errors; must not import training, evaluation, data or anything above.
"""

from softguard.costs.counting import CONVENTION, Added, Flops, pass_flops, request_flops
from softguard.costs.guard_work import GuardWork
from softguard.costs.published import PaperComparison, compare_with_paper
from softguard.costs.results import CONTEXTS, CostReport, SystemCosts, Timing, TokenFlops
from softguard.costs.runtime_results import RuntimeCell, RuntimeCosts, RuntimeSystem, SafeAnswer, Spread
from softguard.costs.shape import ModelShape
from softguard.costs.systems import Numbers, system_costs
from softguard.costs.training_memory import MEMORY_CONVENTION, Rows, kept_bytes, sampling_bytes, step_bytes

__all__ = [
    "CONTEXTS",
    "CONVENTION",
    "MEMORY_CONVENTION",
    "Added",
    "CostReport",
    "Flops",
    "GuardWork",
    "ModelShape",
    "Numbers",
    "PaperComparison",
    "Rows",
    "RuntimeCell",
    "RuntimeCosts",
    "RuntimeSystem",
    "SafeAnswer",
    "Spread",
    "SystemCosts",
    "Timing",
    "TokenFlops",
    "compare_with_paper",
    "kept_bytes",
    "pass_flops",
    "request_flops",
    "sampling_bytes",
    "step_bytes",
    "system_costs",
]
