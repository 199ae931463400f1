"""The script of a `vllm-embeds` export, run as its user runs it up to vLLM itself: its embeddings go into transformers."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from softguard.core import Conversation
from softguard.runtimes.transformers_folder import TransformersFolder


class EmbedsScript(TransformersFolder):
    """A base model from a folder, whose inputs are the embeddings that `script` makes."""

    def __init__(self, script: Path, folder: Path, dtype: torch.dtype) -> None:
        super().__init__(folder, dtype)
        self._script = script
        self._module: Any = None

    @property
    def name(self) -> str:
        """The script and the library."""
        return f"{self._script.name} in {super().name}"

    def __enter__(self) -> "EmbedsScript":
        super().__enter__()
        spec = importlib.util.spec_from_file_location("softguard_export_script", self._script)
        assert spec is not None
        assert spec.loader is not None
        self._module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self._module)
        return self

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """See `Runtime.prompt_ids`."""
        first = self._network.get_input_embeddings().weight.shape[0]
        return [int(i) for i in self._module.prompt_ids(conversation.to_dicts(), self._tokenizer, first)]

    def _inputs(self, ids: Sequence[int]) -> dict[str, Any]:
        return {"inputs_embeds": self._module.prompt_embeds(list(ids), self._network.get_input_embeddings())[None]}
