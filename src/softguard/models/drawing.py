"""One token from a row of logits, by inverse transform of a uniform of the row's own: whatever the batch, it draws the same."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 256
"""Tokens of the vocabulary that are summed together where one is drawn."""


def uniforms(seed: int, key: str, count: int) -> np.ndarray:
    """Return `count` uniforms in [0, 1) keyed on (seed, key): the same in every batch, run and platform."""
    entropy = [seed, *key.encode()]
    return np.random.default_rng(np.random.SeedSequence(entropy)).random(count)


def drawing_device(device: torch.device) -> torch.device:
    """Return where tokens are drawn: on the model's device, or on the CPU for Apple's MPS, which has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def log_odds(logits: Tensor, token: int) -> Tensor:
    """Return log p - log(1 - p) of one token for rows of logits, exactly: its logit minus the logsumexp of the others."""
    others = logits.clone()
    others[:, token] = -torch.inf
    return logits[:, token] - torch.logsumexp(others, dim=-1)


def choose(logits: Tensor, temperature: float, uniform: Tensor) -> Tensor:
    """Return a token for each row: the likeliest at temperature 0, else by inverse transform of the row's uniform.

    Blocks are summed first, and then within the one block that the draw falls into: a cumulative sum over a whole vocabulary
    would take as long as the model's head. Float64 is only for what adds up over many terms: a float64 copy of all weights
    took as long as a tenth of the network.
    """
    if temperature == 0:
        return logits.argmax(-1)
    scaled = logits.to(uniform.device) if temperature == 1 else logits.to(uniform.device) / temperature
    weights = torch.softmax(scaled, -1)
    rows, size = weights.shape
    if size % BLOCK:  # padding by nothing would copy
        weights = F.pad(weights, (0, -size % BLOCK))
    weights = weights.view(rows, -1, BLOCK)
    blocks = weights.sum(-1).double().cumsum(-1)
    target = uniform[:, None] * blocks[:, -1:]
    block = torch.searchsorted(blocks, target, right=True).clamp(max=blocks.shape[1] - 1)
    before = torch.where(block > 0, blocks.gather(1, (block - 1).clamp(min=0)), 0.0)
    within = weights[torch.arange(rows, device=weights.device), block.squeeze(1)].double().cumsum(-1)
    # The block's own sum is rounded: what it is too long by must not fall on a token behind the last possible one.
    end = torch.nextafter(within[:, -1:], torch.zeros_like(target))
    place = torch.searchsorted(within, torch.minimum(target - before, end), right=True).clamp(max=BLOCK - 1)
    drawn = (block * BLOCK + place).clamp(max=size - 1).squeeze(1)
    return drawn.to(logits.device)
