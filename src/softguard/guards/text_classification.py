"""`text_classification`: any Hugging Face sequence-classification model, its labels mapped to safe and unsafe by settings.

One idea: which labels are harm is the user's to say, and every label that is not named is left out of the score: p_safe is the
share of "safe" among what the named labels get, or, where labels are independent (sigmoid), 1 minus the largest unsafe one. A
classifier of prompts flags refusals too, so `reads` says what it is shown.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from softguard.core import Conversation, Verdict
from softguard.errors import ConfigError, SourceError
from softguard.guards.judging import why_ungraded
from softguard.guards.registry import GUARD_KINDS
from softguard.models import best_device
from softguard.sources import resolve


class TextClassificationConfig(BaseModel):
    """Settings of a classifier."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str = Field(description="the weights: hf:org/name@revision, a folder, ...")
    unsafe: tuple[str, ...] = Field(min_length=1, description="labels that mean harm, as the model's config names them")
    safe: tuple[str, ...] = Field((), description="labels that mean none; a sigmoid model needs none")
    reads: Literal["pair", "response", "prompt"] = Field("pair", description="what the classifier is shown of an exchange")
    activation: Literal["auto", "softmax", "sigmoid"] = Field("auto", description="auto takes the model's problem type")
    max_tokens: int = Field(512, gt=7, description="tokens read; the verdict says where this cut the text")
    batch_size: int = Field(32, gt=0, description="texts that run together")
    name: str = Field("", description="in tables; empty takes the model's")


class TextClassifier:
    """A sequence-classification model as a guard."""

    def __init__(self, config: TextClassificationConfig) -> None:
        """Load the weights.

        Raises:
            SourceError: they cannot be had, or hold no trained classification head.
            ConfigError: a label that the model does not have.
        """
        source = resolve(config.model)
        self._config = config
        self.name = config.name or source.name
        self._network, self._tokenizer = _load(source.path)
        labels = {str(v): int(k) for k, v in self._network.config.id2label.items()}
        for label in (*config.unsafe, *config.safe):
            if label not in labels:
                raise ConfigError(f"labels among {', '.join(labels)}", repr(label), "correct safe and unsafe")
        self._sigmoid = _is_sigmoid(config.activation, self._network.config)
        if not self._sigmoid and not config.safe:
            raise ConfigError("labels that are safe, for a softmax model", "none", f"name them: of {', '.join(labels)}")
        self._max_tokens = min(config.max_tokens, _positions(self._network), int(self._tokenizer.model_max_length))
        self._unsafe = {label: labels[label] for label in config.unsafe}
        self._safe = [labels[label] for label in config.safe]
        self.fingerprint = hashlib.sha256(repr(("text-classification-1", source.sha256, config)).encode()).hexdigest()

    @property
    def num_parameters(self) -> int:
        """The number of weights."""
        return int(self._network.num_parameters())

    @property
    def category_names(self) -> frozenset[str]:
        """The unsafe labels."""
        return frozenset(self._unsafe)

    @torch.inference_mode()
    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        """Return one verdict for each conversation, in order; each unsafe label's probability is a category."""
        verdicts = [Verdict(ungraded=why_ungraded(c) or "not judged") for c in conversations]
        rows = [i for i, c in enumerate(conversations) if why_ungraded(c) is None]
        rows.sort(key=lambda i: len(conversations[i].prompt) + len(conversations[i].response))
        for start in range(0, len(rows), self._config.batch_size):
            part = rows[start : start + self._config.batch_size]
            texts = [self._texts(conversations[i]) for i in part]
            whole = [len(self._tokenizer(*t)["input_ids"]) for t in texts]
            batch = self._tokenizer(
                *(list(column) for column in zip(*texts, strict=True)),
                truncation=True,
                max_length=self._max_tokens,
                padding=True,
                return_tensors="pt",
            ).to(self._network.device)
            logits = self._network(**batch).logits.float()
            p = logits.sigmoid() if self._sigmoid else logits.softmax(-1)
            for i, row, length in zip(part, p.tolist(), whole, strict=True):
                verdicts[i] = self._verdict(row, truncated=length > self._max_tokens)
        return verdicts

    def _texts(self, conversation: Conversation) -> tuple[str, ...]:
        shown = {
            "pair": (conversation.prompt, conversation.response),
            "response": (conversation.response,),
            "prompt": (conversation.prompt,),
        }
        return shown[self._config.reads]

    def _verdict(self, p: Sequence[float], *, truncated: bool) -> Verdict:
        unsafe = {label: p[k] for label, k in self._unsafe.items()}
        if self._sigmoid:
            p_safe = 1.0 - max(unsafe.values())
        else:
            safe, harm = sum(p[k] for k in self._safe), sum(unsafe.values())
            if safe + harm < 1e-6:
                return Verdict(ungraded="the model chose none of the named labels", truncated=truncated)
            p_safe = safe / (safe + harm)
        return Verdict(round(p_safe, 5), {k: round(v, 5) for k, v in unsafe.items()}, truncated=truncated)


def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        network, info = AutoModelForSequenceClassification.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **local
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, **local)
    except (OSError, ValueError, KeyError) as error:
        raise SourceError("a sequence-classification model and tokenizer", str(error)[:200], "check the reference") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise SourceError("a model trained to classify", f"no weights for {missing[0]}", "choose a model with a trained head")
    return network.eval().requires_grad_(False).to(best_device()), tokenizer


def _positions(network: Any) -> int:
    """Return how many tokens the network has places for: RoBERTa's first places are its padding's."""
    places = [m for name, m in network.named_modules() if name.endswith("position_embeddings") and hasattr(m, "num_embeddings")]
    learned = [int(m.num_embeddings) - (int(m.padding_idx) + 1 if m.padding_idx is not None else 0) for m in places]
    return min([*learned, int(getattr(network.config, "max_position_embeddings", None) or 10**6)])


def _is_sigmoid(activation: str, config: Any) -> bool:
    if activation != "auto":
        return activation == "sigmoid"
    return getattr(config, "problem_type", None) == "multi_label_classification" or config.num_labels == 1


@GUARD_KINDS.register("text_classification")
def text_classification(config: TextClassificationConfig, folder: Path) -> TextClassifier:
    """Return the classifier; a relative model path begins in `folder`."""
    local = folder / config.model
    return TextClassifier(config.model_copy(update={"model": str(local)}) if local.exists() else config)
