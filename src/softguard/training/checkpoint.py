"""Checkpoints: adapter and optimiser as safetensors, the rest as JSON; no file is pickled. Resume is exact.

Of several processes the main one writes and reads, and the others are sent what it reads: they may lack its disk.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from softguard.core.files import write_atomically
from softguard.core.processes import processes


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], optimiser: torch.optim.Adam, state: dict[str, Any]) -> None:
    """Write one file atomically: adapter tensors, Adam's moments, and `state` (JSON) in its metadata."""
    if not processes().is_main:
        return
    flat = {f"adapter.{k}": v.detach().cpu().clone() for k, v in tensors.items()}
    for i, parameter_state in enumerate(optimiser.state.values()):
        flat |= {f"adam.{i}.{k}": v.detach().cpu().clone() for k, v in parameter_state.items()}
    write_atomically(path, lambda partial: save_file(flat, partial, metadata={"state": json.dumps(state)}))


def load_checkpoint(path: Path, parameters: list[torch.nn.Parameter], optimiser: torch.optim.Adam) -> dict[str, Any]:
    """Put a checkpoint's tensors back and return its `state`."""
    flat, state = processes().from_main(partial(_read, path))
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            parameter.copy_(flat[f"adapter.{i}"])
            moments = {k.split(".", 2)[2]: v for k, v in flat.items() if k.startswith(f"adam.{i}.")}
            if moments:
                optimiser.state[parameter] = {k: v.to(parameter.device) if k != "step" else v for k, v in moments.items()}
    return state


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, "pt") as file:
        state: dict[str, Any] = json.loads(file.metadata()["state"])
    return load_file(path), state
