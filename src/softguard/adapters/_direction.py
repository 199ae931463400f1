"""One vector added to the output of one block at every position: what the steering vectors share, however they are found."""

from abc import ABC
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from softguard.adapters._inside import Inside
from softguard.adapters._storage import check_base, read_adapter, write_adapter
from softguard.errors import CompatibilityError, RunError
from softguard.models import LanguageModel

C = TypeVar("C", bound=BaseModel)


def layer_of(lm: LanguageModel, layer: int) -> int:
    """Return the index of a block, -1 being the paper's 13 of 28 at this model's depth (13 in SmolLM2, 8 in Gemma 3 270M).

    Raises:
        CompatibilityError: the model has no such block.
    """
    depth = len(lm.blocks)
    if layer >= depth:
        raise CompatibilityError(f"a layer below {depth}", str(layer), "lower adapter.layer, or leave it at -1")
    return depth * 13 // 28 if layer < 0 else layer


class Direction(Inside, ABC, Generic[C]):
    """The vector and its layer."""

    config_class: ClassVar[type[Any]]

    def __init__(self, config: C, vector: Tensor, layer: int, base_fingerprint: str) -> None:
        self.config = config
        self.layer = layer
        self.base_fingerprint = base_fingerprint
        self._vector = nn.Parameter(vector.detach().clone().float())

    def parameters(self) -> list[nn.Parameter]:
        """Return the vector."""
        return [self._vector]

    @property
    def vector(self) -> Tensor:
        """The vector, D float32."""
        return self._vector

    @contextmanager
    def attach(self, lm: LanguageModel) -> Iterator[LanguageModel]:
        """Add the vector at its layer, by a hook.

        Raises:
            CompatibilityError: another base model.
        """
        check_base(lm, self.base_fingerprint)

        def add(module: nn.Module, inputs: Any, output: Any) -> Any:
            states = output[0] if isinstance(output, tuple) else output
            steered = states + self._vector.to(states.dtype)
            return (steered, *output[1:]) if isinstance(output, tuple) else steered

        handle = lm.blocks[self.layer].register_forward_hook(add)
        try:
            yield lm
        finally:
            handle.remove()

    @property
    def num_parameters(self) -> int:
        """D."""
        return self._vector.numel()

    @property
    def num_prefix_positions(self) -> int:
        """None."""
        return 0

    @property
    def weights_per_token(self) -> int:
        """None: the vector is added."""
        return 0

    def save(self, folder: Path, lm: LanguageModel) -> None:
        """Write the vector as `direction.N`, N the layer counted from 1; llama.cpp counts from 0, which its exporter minds."""
        write_adapter(folder, self.config, {f"direction.{self.layer + 1}": self._vector}, self.base_fingerprint, None)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """Return the adapter saved in `folder`.

        Raises:
            RunError: a file is missing or not what it has to be.
        """
        stored = read_adapter(folder, cls.config_class, device)
        numbers = {name.removeprefix("direction."): vector for name, vector in stored.tensors.items()}
        if len(numbers) != 1 or not next(iter(numbers)).isdigit():
            raise RunError(f"one direction.N in {folder}", ", ".join(stored.tensors)[:80] or "none", "train it again")
        ((number, vector),) = numbers.items()
        return cls(stored.config, vector, int(number) - 1, stored.base_fingerprint)
