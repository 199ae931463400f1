"""What a guard costs: the passes that it makes over a pair, through the network that it has.

To be counted, a guard has `network` (a module with its transformer in `base_model` or `encoder`) and
`passes(prompt_tokens, answer_tokens)`, the length of each pass that it makes; one without weights says `num_parameters = 0`.
Of any other the cost is not known, and is not called zero.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from softguard.core import Guard
from softguard.costs.counting import Flops, pass_flops
from softguard.costs.shape import ModelShape

Passes = Callable[[int, int], Sequence[int]]


@dataclass(frozen=True)
class GuardWork:
    """A guard as a cost.

    Attributes:
        name: in tables.
        shape: of its network.
        passes: (prompt tokens, answer tokens) -> positions of each pass.
        bytes_per_weight: as it is held.
        keeps_cache: whether keys and values of what it reads are held while it reads: a generating guard, not an encoder.
    """

    name: str
    shape: ModelShape
    passes: Passes
    bytes_per_weight: float
    keeps_cache: bool

    @classmethod
    def of(cls, guard: Guard) -> "GuardWork | None":
        """Return the work of a guard, None where it does not say enough."""
        known: Any = guard
        if getattr(guard, "num_parameters", None) == 0:
            return cls(guard.name, ModelShape(0, 0, 0, 0, 0, (), 0, 0), lambda prompt, answer: (), 0, keeps_cache=False)
        if not (hasattr(guard, "network") and hasattr(guard, "passes")):
            return None
        held = next(known.network.parameters()).element_size()
        return cls(guard.name, ModelShape.of(known.network), known.passes, held, keeps_cache=hasattr(known.network, "lm_head"))

    @classmethod
    def of_size(cls, shape: ModelShape, bytes_per_weight: float) -> "GuardWork":
        """Return a guard that is a language model of this shape, as the paper's: it reads prompt and answer once."""
        return cls("guard of the model's size", shape, lambda prompt, answer: (prompt + answer,), bytes_per_weight, True)

    def flops(self, prompt_tokens: int, answer_tokens: int) -> Flops:
        """Return what judging one answer costs; the verdict takes the logits of one position in each pass."""
        lengths = self.passes(prompt_tokens, answer_tokens)
        return sum((pass_flops(self.shape, length, headed=1) for length in lengths), Flops())
