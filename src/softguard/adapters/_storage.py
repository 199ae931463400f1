"""How adapters are kept: tensors under PEFT's file names, and beside them what they are and which base model they belong to."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from softguard.core.files import write_atomically
from softguard.errors import CompatibilityError, RunError
from softguard.models import LanguageModel

_OWN_FILE = "softguard_adapter.json"
_PEFT_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
C = TypeVar("C", bound=BaseModel)


@dataclass(frozen=True)
class Stored(Generic[C]):
    """What a folder holds: the adapter's config, its tensors, the fingerprint of its base model, PEFT's config or nothing."""

    config: C
    tensors: dict[str, Tensor]
    base_fingerprint: str
    peft_config: Mapping[str, Any]


def write_adapter(
    folder: Path,
    config: BaseModel,
    tensors: Mapping[str, Tensor],
    base_fingerprint: str,
    peft_config: Mapping[str, Any] | None,
) -> None:
    """Write an adapter; `peft_config` None says that PEFT cannot load it, and no file of PEFT's config is left to mislead it."""
    kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(folder / _WEIGHTS, lambda path: save_file(kept, path))
    own = {"config": config.model_dump(mode="json"), "base_fingerprint": base_fingerprint}
    write_atomically(folder / _OWN_FILE, json.dumps(own, indent=2) + "\n")
    if peft_config is None:
        (folder / _PEFT_CONFIG).unlink(missing_ok=True)
    else:
        write_atomically(folder / _PEFT_CONFIG, json.dumps(peft_config, indent=2) + "\n")


def read_adapter(folder: Path, config: type[C], device: torch.device | str) -> Stored[C]:
    """Return what `write_adapter` wrote, its tensors on `device`.

    Raises:
        RunError: a file is missing or not what it has to be.
    """
    try:
        own = json.loads((folder / _OWN_FILE).read_text(encoding="utf-8"))
        tensors = {name: tensor.to(device) for name, tensor in load_file(folder / _WEIGHTS).items()}
        path = folder / _PEFT_CONFIG
        peft = dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
        return Stored(config.model_validate(own["config"]), tensors, str(own["base_fingerprint"]), peft)
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        kind = config.model_fields["kind"].default
        raise RunError(f"a {kind} in {folder}", str(error)[:160], "train it again or copy it whole") from error


def check_base(lm: LanguageModel, fingerprint: str) -> None:
    """Check that `lm` is the model that an adapter belongs to.

    Raises:
        CompatibilityError: it is another.
    """
    if lm.fingerprint != fingerprint:
        raise CompatibilityError(f"the base model {fingerprint[:12]}", lm.fingerprint[:12], "name the model of this run")
