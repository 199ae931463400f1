"""What every adapter promises to the loop, to evaluation and to exports."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from softguard.models import LanguageModel, RenderedPrompt
from softguard.registry import Registry


class Adapter(Protocol):
    """Learned parameters and how they meet a frozen model."""

    def parameters(self) -> list[nn.Parameter]:
        """Return what learns: float32 masters."""
        ...

    def virtual_tokens(self) -> Tensor | None:
        """Return the learned input vectors, P x D float32, or None where there are none."""
        ...

    def extend(self, prompt: RenderedPrompt) -> list[int]:
        """Return the prompt's ids with this adapter's virtual tokens (negative ids) where it places them."""
        ...

    def refusal(self, lm: LanguageModel, ids: Sequence[int]) -> list[int]:
        """Return what the student says where it refuses, given the ids of the refusal: themselves, or a token before them.

        Its first token is the one whose log-odds decide.
        """
        ...

    def attach(self, lm: LanguageModel) -> AbstractContextManager[LanguageModel]:
        """Attach to the network for the length of a `with` block, which is given the student to run.

        Base weights are the same bits before and after. Within the block `lm` itself may be the student too (its network is
        shared), so what is the base model's is computed outside. Blocks are as short as the passes that they serve, and one
        adapter's blocks do not nest.
        """
        ...

    @property
    def num_parameters(self) -> int:
        """How many numbers are learned."""
        ...

    @property
    def num_prefix_positions(self) -> int:
        """Positions that the adapter adds to every request."""
        ...

    @property
    def weights_per_token(self) -> int:
        """Learned numbers that every token of a request is multiplied with, besides the network's own."""
        ...

    def save(self, folder: Path, lm: LanguageModel) -> None:
        """Write the adapter, in PEFT's layout where PEFT can load it."""
        ...


@runtime_checkable
class Fitted(Protocol):
    """An adapter that is fitted in closed form instead of trained: it is not given to an optimiser."""

    def fit(
        self, lm: LanguageModel, prompts: Sequence[RenderedPrompt], alpha: Sequence[float], score: Callable[[], float]
    ) -> None:
        """Fit in place.

        Args:
            lm: the base model, nothing attached.
            prompts: training prompts.
            alpha: for each of them the guard's p_safe of the teacher's draft.
            score: gives the validation score of the adapter as it is when called; larger is better.

        Raises:
            DataError: the prompts do not say what the fit needs.
        """
        ...


class AdapterClass(Protocol):
    """What is registered: makes a fresh adapter, or loads a saved one. The annotation of `config` says which settings it has."""

    def create(self, config: Any, lm: LanguageModel, seed: int) -> Adapter:
        """Return a fresh adapter for `lm`."""
        ...

    def load(self, folder: Path, device: torch.device | str = "cpu") -> Adapter:
        """Return the adapter saved in `folder`."""
        ...


ADAPTERS: Registry[Any] = Registry("adapter", "softguard.adapters")
"""`AdapterClass`es by the `kind` of their config."""
