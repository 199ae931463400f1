"""A refusal gate: one control token G more in the vocabulary, whose two rows are what is learned.

Its row of the head, the probe u, is a linear probe on the final state: P(G | x) = exp(u h) / (exp(u h) + sum_v exp(w_v h)), so
that s = u h - lse_v(w_v h) decides, and the operating point is on it. Its row of the embedding, the trigger e, is read once G
is said and makes the frozen model go on with the refusal's text. Given that G is not said the next token is the base model's,
exactly: where the gate does not fire no usefulness is lost, and a request has no more positions than without it. Both rows are
of the kind that a vocabulary holds, so that whatever bakes virtual tokens can bake them, G being a token that is not shown.

What the probe sees are the frozen model's states, in which harmful prompts and look-alikes are about as far apart as trained soft
prompts push them (decision 0018). With a soft prompt in front the states get better and the gate with them: `soft_prompt` takes
one. G may be said at any position, as any token; training along answers keeps it from being said there.

References:
    Ours. Probes on hidden states: Alain and Bengio 2016, arXiv 1610.01644. Extra tokens as soft prompts: Lester et al. 2021.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from softguard.adapters._storage import check_base, read_adapter, write_adapter
from softguard.adapters.protocol import ADAPTERS
from softguard.adapters.soft_prompt import SoftPrompt, SoftPromptConfig
from softguard.core import REFUSAL_TEXT
from softguard.errors import RunError
from softguard.models import ControlToken, LanguageModel, RenderedPrompt
from softguard.models.chat import Slot

_PROBE, _TRIGGER, _PROMPT = "probe", "trigger", "prompt_embeddings"


class RefusalGateConfig(BaseModel):
    """What the trigger starts from, and the soft prompt beside the gate."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["refusal_gate"] = "refusal_gate"
    initial_text: str = Field(REFUSAL_TEXT, min_length=1, description="the trigger starts as the mean of its embeddings")
    soft_prompt: SoftPromptConfig | None = Field(
        None, description="a soft prompt that is learned with the gate, with its own settings; without it the gate is alone"
    )

    @property
    def layout(self) -> tuple[tuple[Slot, int], ...]:
        """(slot, count) of the soft prompt."""
        return self.soft_prompt.layout if self.soft_prompt else ()


@ADAPTERS.register("refusal_gate")
class RefusalGate:
    """The probe and the trigger, and the soft prompt where there is one."""

    def __init__(
        self, config: RefusalGateConfig, probe: Tensor, trigger: Tensor, prompt: SoftPrompt | None, base_fingerprint: str
    ) -> None:
        self.config = config
        self.prompt = prompt
        self.base_fingerprint = base_fingerprint
        self._probe = nn.Parameter(probe.detach().clone().float())
        self._trigger = nn.Parameter(trigger.detach().clone().float())

    @classmethod
    def create(cls, config: RefusalGateConfig, lm: LanguageModel, seed: int) -> "RefusalGate":
        """Return a fresh gate for `lm`.

        The probe starts as the mean of the head's rows: its logit is then the mean of all logits, so that P(G) <= 1 / (V + 1) at
        every state (Jensen), as a row of zeros is not where real logits are negative.
        """
        ids = lm.tokenizer(config.initial_text, add_special_tokens=False)["input_ids"]
        trigger = lm.embed(torch.tensor([ids], device=lm.device))[0].float().mean(0)
        prompt = None if config.soft_prompt is None else SoftPrompt.create(config.soft_prompt, lm, seed)
        return cls(config, lm.output_head.weight.float().mean(0), trigger, prompt, lm.fingerprint)

    def parameters(self) -> list[nn.Parameter]:
        """Return the probe, the trigger and the soft prompt's W."""
        return [self._probe, self._trigger, *(self.prompt.parameters() if self.prompt else [])]

    def virtual_tokens(self) -> Tensor | None:
        """Return the soft prompt's W, P x D."""
        return self.prompt.virtual_tokens() if self.prompt else None

    def extend(self, prompt: RenderedPrompt) -> list[int]:
        """Return the ids with the soft prompt's virtual tokens in their places."""
        return self.prompt.extend(prompt) if self.prompt else list(prompt.ids)

    def refusal(self, lm: LanguageModel, ids: Sequence[int]) -> list[int]:
        """Return the ids after the control token, which is said first and not shown."""
        return [len(lm.embedding_weight), *ids]

    @contextmanager
    def attach(self, lm: LanguageModel) -> Iterator[LanguageModel]:
        """Give the model that has the control token; the network itself is left alone.

        Raises:
            CompatibilityError: another base model.
        """
        check_base(lm, self.base_fingerprint)
        yield replace(lm, control=ControlToken(self._probe, self._trigger))

    @property
    def num_parameters(self) -> int:
        """2 x D, and the soft prompt's."""
        return sum(p.numel() for p in self.parameters())

    @property
    def num_prefix_positions(self) -> int:
        """The soft prompt's."""
        return self.prompt.num_prefix_positions if self.prompt else 0

    @property
    def weights_per_token(self) -> int:
        """D: the probe is a row of the head."""
        return self._probe.numel()

    def save(self, folder: Path, lm: LanguageModel) -> None:
        """Write the rows and W; PEFT has no such adapter, and no config of its own is left to mislead it."""
        tensors: dict[str, Tensor] = {_PROBE: self._probe, _TRIGGER: self._trigger}
        if self.prompt:
            tensors[_PROMPT] = self.prompt.virtual_tokens()
        write_adapter(folder, self.config, tensors, self.base_fingerprint, None)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "RefusalGate":
        """Return the gate saved in `folder`.

        Raises:
            RunError: a file is missing or not what it has to be.
        """
        stored = read_adapter(folder, RefusalGateConfig, device)
        tensors, config = stored.tensors, stored.config
        names = {_PROBE, _TRIGGER} | ({_PROMPT} if config.soft_prompt else set())
        if set(tensors) != names:
            raise RunError(f"{', '.join(sorted(names))} in {folder}", ", ".join(tensors)[:80] or "none", "train it again")
        prompt = SoftPrompt(config.soft_prompt, tensors[_PROMPT], stored.base_fingerprint) if config.soft_prompt else None
        return cls(config, tensors[_PROBE], tensors[_TRIGGER], prompt, stored.base_fingerprint)
