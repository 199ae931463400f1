"""The soft prompt: `num_virtual_tokens` learned vectors among the input embeddings (paper, section 3; Lester et al. 2021).

Placement decides what they can do: in front they only re-weight what later tokens read; behind the user's turn they read the
whole request (Petrov et al., arXiv 2310.19698), and after the assistant header the last of them predicts the first answer token.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from softguard.adapters._storage import check_base, read_adapter, write_adapter
from softguard.adapters.protocol import ADAPTERS
from softguard.errors import CompatibilityError, RunError
from softguard.models import LanguageModel, RenderedPrompt
from softguard.models.chat import Slot

DEFAULT_TEXT = (
    "You are a careful assistant. Answer every harmless request fully and directly. If a request would help "
    "someone to do real harm, reply only: Sorry, I cannot help with this matter."
)
"""What adapters that start from a text start from."""
_TENSOR = "prompt_embeddings"


class Placement(BaseModel):
    """A run of virtual tokens and where it stands."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    slot: Slot = Field(
        "front",
        description="front, after_bos, system (end of the system turn), after_user, after_header (last before the answer)",
    )
    count: int = Field(gt=0, description="virtual tokens there")


class SoftPromptConfig(BaseModel):
    """Size, start and place of the soft prompt."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["soft_prompt"] = "soft_prompt"
    num_virtual_tokens: int = Field(32, gt=0, le=4096, description="rows of W; the paper uses 100, 32 suffice here")
    placement: tuple[Placement, ...] = Field(
        (), description="one place, or two that share the virtual tokens; empty is all of them in front"
    )
    initialisation: Literal["text", "vocabulary_sample", "random"] = Field(
        "text", description="embeddings of a text, of sampled tokens, or noise at the embeddings' own mean and scale"
    )
    initial_text: str = Field(DEFAULT_TEXT, description="repeated or cut to num_virtual_tokens where initialisation is text")

    @model_validator(mode="after")
    def _goes_together(self) -> "SoftPromptConfig":
        if self.initialisation == "text" and not self.initial_text.strip():
            raise ValueError("initial_text is empty where initialisation is text")
        total = sum(p.count for p in self.placement)
        if self.placement and total != self.num_virtual_tokens:
            raise ValueError(f"placement holds {total} virtual tokens, num_virtual_tokens is {self.num_virtual_tokens}")
        return self

    @property
    def layout(self) -> tuple[tuple[Slot, int], ...]:
        """(slot, count) in the order of W's rows."""
        return tuple((p.slot, p.count) for p in self.placement) or (("front", self.num_virtual_tokens),)


def repeated_ids(lm: LanguageModel, text: str, count: int) -> list[int]:
    """Return the ids of a text, repeated or cut to `count`."""
    ids: list[int] = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    return (ids * (count // len(ids) + 1))[:count]


@ADAPTERS.register("soft_prompt")
class SoftPrompt:
    """W and its layout."""

    def __init__(self, config: SoftPromptConfig, weight: Tensor, base_fingerprint: str) -> None:
        self.config = config
        self.base_fingerprint = base_fingerprint
        self._weight = nn.Parameter(weight.detach().clone().float())

    @classmethod
    def create(cls, config: SoftPromptConfig, lm: LanguageModel, seed: int) -> "SoftPrompt":
        """Return a fresh soft prompt for `lm`, started as the config says."""
        generator = torch.Generator().manual_seed(seed)
        count = config.num_virtual_tokens
        table = lm.embedding_weight.detach()
        if config.initialisation == "random":
            drawn = torch.randint(len(table), (1, 4096), generator=generator)
            sample = lm.embed(drawn.to(lm.device))[0].float().cpu()
            weight = sample.mean(0) + sample.std(0) * torch.randn(count, lm.width, generator=generator)
        else:
            if config.initialisation == "text":
                ids = repeated_ids(lm, config.initial_text, count)
            else:
                ids = torch.randint(len(table), (count,), generator=generator).tolist()
            weight = lm.embed(torch.tensor([ids], device=lm.device))[0].float().cpu()
        return cls(config, weight.to(lm.device), lm.fingerprint)

    def parameters(self) -> list[nn.Parameter]:
        """Return W."""
        return [self._weight]

    def virtual_tokens(self) -> Tensor:
        """Return W, P x D."""
        return self._weight

    def extend(self, prompt: RenderedPrompt) -> list[int]:
        """Return the ids with the virtual tokens in their places."""
        return prompt.insert(self.config.layout)

    def refusal(self, lm: LanguageModel, ids: Sequence[int]) -> list[int]:
        """Return the ids as they are."""
        return list(ids)

    @contextmanager
    def attach(self, lm: LanguageModel) -> Iterator[LanguageModel]:
        """Check that `lm` is the model of this prompt; the network itself is left alone.

        Raises:
            CompatibilityError: another width or another base model.
        """
        if lm.width != self._weight.shape[1]:
            raise CompatibilityError(
                f"a base model of width {self._weight.shape[1]}", f"width {lm.width}", "name the model of this run"
            )
        check_base(lm, self.base_fingerprint)
        yield lm

    @property
    def num_parameters(self) -> int:
        """P x D."""
        return self._weight.numel()

    @property
    def num_prefix_positions(self) -> int:
        """P."""
        return self.config.num_virtual_tokens

    @property
    def weights_per_token(self) -> int:
        """None."""
        return 0

    def save(self, folder: Path, lm: LanguageModel) -> None:
        """Write W under PEFT's file names, and its config where PEFT can load W: all virtual tokens in front.

        PEFT would put any other layout in front, without an error. It knows no operating point either: what it loads decides
        by decoding alone, without the run's threshold.
        """
        tensors = {_TENSOR: self._weight}
        if any(slot != "front" for slot, _ in self.config.layout):
            write_adapter(folder, self.config, tensors, self.base_fingerprint, None)
            return
        peft = {
            "peft_type": "PROMPT_TUNING",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": lm.reference,
            "inference_mode": True,
            "num_virtual_tokens": self.config.num_virtual_tokens,
            "token_dim": lm.width,
            "num_transformer_submodules": 1,
            "num_layers": lm.network.config.num_hidden_layers,
            "num_attention_heads": lm.network.config.num_attention_heads,
            "prompt_tuning_init": "RANDOM",
        }
        write_adapter(folder, self.config, tensors, self.base_fingerprint, peft)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "SoftPrompt":
        """Return the soft prompt saved in `folder`, on the device of its model, ready to use or to train on.

        Raises:
            RunError: a file is missing or not what it has to be.
        """
        stored = read_adapter(folder, SoftPromptConfig, device)
        if set(stored.tensors) != {_TENSOR}:
            raise RunError(f"{_TENSOR} alone in {folder}", ", ".join(stored.tensors)[:80] or "none", "train it again")
        return cls(stored.config, stored.tensors[_TENSOR], stored.base_fingerprint)
