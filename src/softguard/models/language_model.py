"""A frozen causal language model with its tokenizer, split where training needs it: embedding, body, head."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softguard.core.head import Head
from softguard.errors import CompatibilityError
from softguard.models.attention import FUSED, GROUPED, layer_windows, seen_by_kind
from softguard.models.chat import turn_end
from softguard.models.drawing import log_odds
from softguard.models.quantisation import Quantisation, quantisation_of, weight_count


@dataclass(frozen=True)
class ControlToken:
    """One token more than a network has; its id is the number of rows of the network's embedding.

    Attributes:
        probe: D, its row of the head: its logit is the product with a final state, at every position as any token's.
        trigger: D, its row of the embedding, on the far side of the embedding layer.
    """

    probe: Tensor
    trigger: Tensor


@dataclass(frozen=True)
class DecisionRow:
    """One row of the head more, which is never drawn: a student refuses where its logit is the largest (decision 0027).

    A runtime can be given such a row and decides by it as this does. The refusal log-odds have a sum over the vocabulary, which
    no row computes.

    Attributes:
        weights: D, float32.
        threshold: b, nats: what the score is at the point where row and likeliest token tie.
    """

    weights: Tensor
    threshold: float


@dataclass(frozen=True)
class LanguageModel:
    """The network is frozen and in evaluation mode; adapters attach to it and leave its weights as they are.

    Attributes:
        network: a Hugging Face causal LM.
        tokenizer: its fast tokenizer.
        reference: how the user named it.
        fingerprint: sha256 of the source that it was loaded from, with dtype and quantisation: part of every cache key.
        prefix: keys and values for each layer, each 1 x heads x P x width, that stand before every sequence in positions 0 to
            P - 1: what an adapter of learned keys and values adds. Empty in a base model.
        control: a token that an adapter adds. Final states then end in its logit (`Head`). None in a base model.
        decision: what a student's refusal is scored by, None for its log-odds.
    """

    network: Any
    tokenizer: Any
    reference: str
    fingerprint: str
    licence: str | None = None
    prefix: tuple[tuple[Tensor, Tensor], ...] = field(default=(), compare=False, repr=False)
    control: ControlToken | None = field(default=None, compare=False, repr=False)
    decision: DecisionRow | None = field(default=None, compare=False, repr=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.network.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the embeddings, hence of the body's input."""
        return self.embedding_weight.dtype

    @property
    def quantisation(self) -> Quantisation:
        """How the linear layers are held: "none" means as loaded, in `dtype`."""
        return quantisation_of(self.network)

    @property
    def embedding_weight(self) -> Tensor:
        """The input embeddings, V x D, before any scaling that the embedding layer applies."""
        weight: Tensor = self.network.get_input_embeddings().weight
        return weight

    @property
    def attention(self) -> str:
        """The attention kernel: another rounds otherwise, so it is part of the key of what is kept."""
        return str(self.network.config._attn_implementation)

    @property
    def packs(self) -> bool:
        """Whether sequences may stand side by side in one row (`packing`): our kernel attends, scores have no bound, and no
        adapter holds keys and values."""
        bounded = getattr(self.network.config, "attn_logit_softcapping", None)
        return self.attention in (GROUPED, FUSED) and not bounded and not self.prefix

    @property
    def width(self) -> int:
        """D."""
        return int(self.embedding_weight.shape[1])

    @property
    def context(self) -> int | None:
        """The most positions that a sequence may have; None where the model does not say."""
        found = getattr(self.network.config, "max_position_embeddings", None)
        return None if found is None else int(found)

    @property
    def window(self) -> float:
        """The smallest number of positions that a layer looks back, infinite where every layer sees all."""
        return min((float(size) for size in layer_windows(self.network.config) if size), default=float("inf"))

    @property
    def prefix_positions(self) -> int:
        """Positions that `prefix` holds."""
        return self.prefix[0][0].shape[2] if self.prefix else 0

    @property
    def blocks(self) -> nn.ModuleList:
        """The network's blocks, in order."""
        count = self.network.config.num_hidden_layers
        for child in self.network.base_model.children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                return child
        found = type(self.network).__name__
        raise CompatibilityError(f"a model with a list of its {count} blocks", found, "choose another model or adapter")

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """The ids that end an answer: the turn token and whatever the generation config adds."""
        ids = {turn_end(self.tokenizer), self.tokenizer.eos_token_id}
        configured = getattr(self.network.generation_config, "eos_token_id", None)
        ids.update(configured if isinstance(configured, list) else [configured])
        return frozenset(i for i in ids if i is not None)

    @cached_property
    def turn_end_id(self) -> int:
        """The token that closes an assistant turn, the template's or else eos: refusals and answers that were not cut end so."""
        ids = (turn_end(self.tokenizer), self.tokenizer.eos_token_id)
        found = next((i for i in ids if i is not None), None)
        if found is None:
            raise CompatibilityError("a tokenizer with an end-of-turn token", "none", "use an instruction-tuned model")
        return int(found)

    def embed(self, ids: Tensor, virtual_tokens: Tensor | None = None) -> Tensor:
        """Return the body's input for ids, B x T x D; id -(k+1) takes row k of `virtual_tokens` (P x D).

        Virtual tokens are given on the far side of the embedding layer: what the layer scales (Gemma), they are not.
        """
        last = None if self.control is None else len(self.embedding_weight) - 1
        rows: Tensor = self.network.get_input_embeddings()(ids.clamp(min=0, max=last))
        if self.control is not None and last is not None:
            rows = torch.where((ids > last)[..., None], self.control.trigger.to(rows.dtype), rows)
        if virtual_tokens is None:
            return rows
        # Not by indexing: its gradient would be summed by several threads in an order of their own.
        virtual = F.embedding((-ids - 1).clamp(min=0), virtual_tokens).to(rows.dtype)
        return torch.where((ids < 0)[..., None], virtual, rows)

    def attention_mask(self, seen: Tensor) -> Any:
        """Return what `body` takes to let each query see just the keys marked in `seen`, B x 1 x T x S bool.

        A model with sliding windows gets the same mask for each of its layer kinds, so it is only for sequences that its
        windows do not cut (`window`).
        """
        mask = self._additive(seen)
        kinds = set(getattr(self.network.config, "layer_types", None) or ())
        return mask if len(kinds) < 2 else dict.fromkeys(kinds, mask)

    def causal_mask(self, position: Tensor, columns: int) -> Any:
        """Return what `body` takes where column c of the keys holds position c, and queries stand at `position`, B x T.

        Each layer sees as far back as its own window, whatever rows of other lengths stand beside.

        Raises:
            CompatibilityError: a network with layers that are not attention.
        """
        masks = {kind: self._additive(seen) for kind, seen in seen_by_kind(self.network.config, position, columns).items()}
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _additive(self, seen: Tensor) -> Tensor:
        return torch.zeros_like(seen, dtype=self.dtype).masked_fill_(~seen, torch.finfo(self.dtype).min)

    def body(self, **inputs: Any) -> Any:
        """Run the network without its head; returns the output with `last_hidden_state` after the final norm.

        With a control token states are B x T x (D + 1).
        """
        body = self.network.base_model
        # Llama 4 names its language model after its place in the multimodal one, and so has no base model by that name.
        output = (self.network.model if body is self.network else body)(**inputs)
        if self.control is not None:
            states, probe = output.last_hidden_state, self.control.probe
            wide = torch.promote_types(states.dtype, probe.dtype)
            logit = states.to(wide) @ probe.to(wide)
            output.last_hidden_state = torch.cat([states, logit[..., None].to(states.dtype)], -1)
        return output

    @property
    def output_head(self) -> Head:
        """What makes logits of final states."""
        layer, config = self.network.get_output_embeddings(), self.network.config
        # Granite divides its logits, Cohere multiplies them. Whether this is all that a model does is checked when it is loaded.
        scale = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
        return Head(layer.weight, getattr(layer, "bias", None), scale, getattr(config, "final_logit_softcapping", None))

    def head(self, states: Tensor) -> Tensor:
        """Return float32 logits for final states, N x D -> N x V."""
        return self.output_head.logits(states)

    def refusal_scores(self, states: Tensor, logits: Tensor, refusal_token: int) -> Tensor:
        """Return s, N, for the final states, N x D, of first answer positions and their logits, N x V.

        s = log p(S) - log(1 - p(S)), S the refusal's first token. With a decision row it is b plus the row's logit minus the
        largest of the tokens but S, which no answer begins with.
        """
        if self.decision is None:
            return log_odds(logits, refusal_token)
        own = replace(self.output_head, weight=self.decision.weights[None].to(states.device), bias=None)
        others = logits.clone()
        others[:, refusal_token] = -torch.inf
        return own.logits(states.float())[:, 0] - others.amax(-1) + self.decision.threshold

    def num_parameters(self) -> int:
        """Return the number of weights, tied ones once."""
        return sum(weight_count(p) for p in self.network.parameters())
