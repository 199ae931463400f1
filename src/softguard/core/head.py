"""The last layer of a language model, apart from the model: what makes logits of final states.

A state may be wider than the head: what stands after its D numbers are logits of tokens that the head has no row for (a
`ControlToken`). They come after the head's own, and scale and bound apply to them as to any.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Head:
    """`weight` V x D, `bias` V, the factor that Granite and Cohere put on logits, and the bound that Gemma 2 puts on them."""

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, states: Tensor) -> Tensor:
        """Return N x V logits, float32 or the states' own wider type (states are N x D: a 3-D slice would copy the weight).

        States of D + C numbers give V + C logits.
        """
        return self.finished(self.products(states))

    def products(self, states: Tensor) -> Tensor:
        """Return N x V, in the weights' own type: logits before `finished`."""
        width = self.weight.shape[1]
        products = F.linear(states[:, :width], self.weight, self.bias)
        return products if states.shape[1] == width else torch.cat([products, states[:, width:]], 1)

    def finished(self, products: Tensor) -> Tensor:
        """Return the logits of rows of `products`, which may be these themselves."""
        logits = products if products.dtype == torch.float64 else products.float()
        logits = logits if self.scale == 1.0 else logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)
