"""The script of an `onnx` export, run as its user runs it: ONNX Runtime on the processor, and no code of ours."""

import importlib.util
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from softguard.core import Conversation
from softguard.errors import RuntimeProgramError
from softguard.runtimes.protocol import RuntimeReply


class OnnxScript:
    """`ask.py` of a folder and the graph beside it; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._script = folder / "ask.py"
        self._module: Any = None
        self._session: Any = None
        self._tokenizer: Any = None

    @property
    def name(self) -> str:
        """The script and the library."""
        return f"{self._script.name} in onnxruntime {version('onnxruntime')}"

    def __enter__(self) -> "OnnxScript":
        spec = importlib.util.spec_from_file_location("softguard_onnx_script", self._script)
        assert spec is not None
        assert spec.loader is not None
        self._module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(self._module)
            self._session, self._tokenizer = self._module.load()
        except Exception as error:  # onnxruntime's errors share no base class
            raise RuntimeProgramError("a graph that ONNX Runtime loads", str(error)[:300], "report this base model") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._module = self._session = self._tokenizer = None

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """See `Runtime.prompt_ids`."""
        return [int(i) for i in self._module.prompt_ids(conversation.to_dicts(), self._tokenizer)]

    def log_probs(self, ids: Sequence[int], top: int) -> dict[int, float]:
        """See `Runtime.log_probs`."""
        return _likeliest(self._module.step(self._session, list(ids))[0][-1], top)

    def generate(self, ids: Sequence[int], count: int, temperature: float = 0.0, seed: int = 0) -> list[int]:
        """See `Runtime.generate`."""
        rng = np.random.default_rng(seed)

        def choose(logits: Any) -> int:
            if not temperature:
                return int(np.argmax(logits))
            # The largest of logits with Gumbel noise is a draw from their softmax.
            return int(np.argmax(logits / temperature + rng.gumbel(size=logits.shape)))

        return [int(i) for i in self._module.generate(self._session, list(ids), count, choose)]

    def answer(self, conversation: Conversation, max_new_tokens: int, top: int) -> RuntimeReply:
        """See `Runtime.answer`."""
        ids = self.prompt_ids(conversation)
        made = self.generate(ids, max_new_tokens)
        ended = bool(made) and made[-1] in self._module.STOP
        text = str(self._tokenizer.decode(made, skip_special_tokens=True))
        return RuntimeReply(text, not ended, self.log_probs(ids, top))


def _likeliest(logits: Any, top: int) -> dict[int, float]:
    wide = logits.astype(np.float64)
    log_probs = wide - (wide.max() + np.log(np.exp(wide - wide.max()).sum()))
    order = np.argsort(-log_probs)[:top]
    return {int(i): float(log_probs[i]) for i in order}
