"""A folder of Hugging Face files in transformers, as any user of `AutoModelForCausalLM` has it, without our model code."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from softguard.core import Conversation
from softguard.errors import RuntimeProgramError
from softguard.runtimes.protocol import RuntimeReply


class TransformersFolder:
    """A model loaded from a folder; a context manager. `adapter` is a folder in PEFT's layout to put on it."""

    def __init__(self, folder: Path, dtype: torch.dtype, adapter: Path | None = None) -> None:
        self._folder, self._dtype, self._adapter = folder, dtype, adapter
        self._network: Any = None
        self._tokenizer: Any = None

    @property
    def name(self) -> str:
        """The library with its version."""
        put_on = f", peft {version('peft')}" if self._adapter else ""
        return f"transformers {version('transformers')}{put_on}"

    def __enter__(self) -> "TransformersFolder":
        from transformers import AutoModelForCausalLM, AutoTokenizer

        local: Mapping[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            network: Any = AutoModelForCausalLM.from_pretrained(self._folder, dtype=self._dtype, use_safetensors=True, **local)
            self._tokenizer = AutoTokenizer.from_pretrained(self._folder, **local)
            if self._adapter:
                from peft import PeftModel

                network = PeftModel.from_pretrained(network, self._adapter)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise RuntimeProgramError("a folder that transformers loads", str(error)[:300], "report this base model") from error
        self._network = network.eval()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._network = self._tokenizer = None

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """See `Runtime.prompt_ids`."""
        found = self._tokenizer.apply_chat_template(
            conversation.to_dicts(), tokenize=True, add_generation_prompt=True, return_dict=False
        )
        return [int(i) for i in found]

    @torch.inference_mode()
    def log_probs(self, ids: Sequence[int], top: int) -> dict[int, float]:
        """See `Runtime.log_probs`."""
        logits = self._network(**self._inputs(ids)).logits[0, -1].float()
        found = torch.log_softmax(logits, -1).topk(top)
        return dict(zip(found.indices.tolist(), found.values.tolist(), strict=True))

    @torch.inference_mode()
    def generate(self, ids: Sequence[int], count: int, temperature: float = 0.0, seed: int = 0) -> list[int]:
        """See `Runtime.generate`."""
        torch.manual_seed(seed)
        given = self._inputs(ids)
        drawing = (
            {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {"do_sample": False}
        )
        made = self._network.generate(
            **given,
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=count,
            pad_token_id=self._tokenizer.eos_token_id,
            **drawing,
        )
        # What transformers gives back of a request in embeddings has no prompt in it.
        return [int(i) for i in made[0, len(ids) if "input_ids" in given else 0 :]]

    def answer(self, conversation: Conversation, max_new_tokens: int, top: int) -> RuntimeReply:
        """See `Runtime.answer`."""
        ids = self.prompt_ids(conversation)
        made = self.generate(ids, max_new_tokens)
        ended = bool(made) and made[-1] == self._tokenizer.eos_token_id
        text = str(self._tokenizer.decode(made, skip_special_tokens=True))
        return RuntimeReply(text, not ended, self.log_probs(ids, top))

    def _inputs(self, ids: Sequence[int]) -> dict[str, Any]:
        """Return what the network takes for ids."""
        return {"input_ids": torch.tensor([list(ids)])}
