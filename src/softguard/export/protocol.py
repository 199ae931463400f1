"""What every exporter is given and gives back."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from softguard.adapters import ADAPTERS, Adapter
from softguard.errors import CompatibilityError
from softguard.export.refusal_entry import BakedRows
from softguard.models import ChatRenderer, LanguageModel
from softguard.models.chat import Slot
from softguard.registry import Registry
from softguard.runtimes import Runtime


@dataclass(frozen=True)
class StudentModel:
    """A student as exporters see it.

    Attributes:
        lm: the base model in memory.
        adapter: what was learned.
        virtual_tokens: P x D float32, on the far side of the embedding layer; P is 0 where the adapter has none.
        layout: (slot, count) in the order of the virtual tokens.
        names: one name for each virtual token, new in every export.
        refusal_text: the fixed refusal.
        refusal_token: its first token S.
        threshold: the operating point b: it refuses iff s > b.
        base: the GGUF file that the user's runtime has, where there is one.
        base_sha256: its hash.
        own_base: whether that file is the one that the student was trained against.
        title: what the files are named after.
    """

    lm: LanguageModel
    adapter: Adapter
    virtual_tokens: Tensor
    layout: tuple[tuple[Slot, int], ...]
    names: tuple[str, ...]
    refusal_text: str
    refusal_token: int
    threshold: float
    base: Path | None
    base_sha256: str
    own_base: bool
    title: str

    @property
    def refusal_entry(self) -> str:
        """How the vocabulary writes the refusal's text in one entry: the entries of its tokens, joined.

        No merge leads to it, so no text that anybody writes becomes this token.
        """
        tokenizer = self.lm.tokenizer
        return "".join(tokenizer.convert_ids_to_tokens(ChatRenderer(tokenizer).encode_response(self.refusal_text)))

    @property
    def known_tokens(self) -> int:
        """Tokens of the tokenizer that have an embedding row: transformers may know of more, which nobody trained with."""
        return min(len(self.lm.tokenizer), len(self.lm.embedding_weight))

    @property
    def names_by_slot(self) -> dict[Slot, str]:
        """The names of each slot's virtual tokens, joined."""
        out: dict[Slot, str] = {}
        first = 0
        for slot, count in self.layout:
            out[slot] = out.get(slot, "") + "".join(self.names[first : first + count])
            first += count
        return out


@dataclass(frozen=True)
class Exported:
    """What an exporter wrote.

    Attributes:
        command: the shell line that runs it in its runtime, from within the folder.
        facts: what verify.json shall say of the files.
        notes: sentences for the README: what this format leaves open.
        first_virtual_id: virtual token k has the id `first_virtual_id + k` there; None where it has no id.
        start: starts a runtime with it for verification, given the folder; None where none is at hand.
        tolerance_nats: how far the log-probabilities of the likeliest tokens may be from the student's, on the mean.
    """

    command: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    first_virtual_id: int | None = None
    start: Callable[[Path], AbstractContextManager[Runtime]] | None = None
    tolerance_nats: float = 0.0


class Exporter(Protocol):
    """One format."""

    @property
    def description(self) -> str:
        """The format in a few words, for the command line's help."""
        ...

    @property
    def carries(self) -> tuple[str, ...]:
        """The kinds of adapters that the format can hold, by their names in `ADAPTERS`."""
        ...

    @property
    def bakes_head(self) -> bool:
        """Whether the file holds head rows of its own, which have to be fitted first."""
        ...

    def check(self, student: StudentModel) -> None:
        """Raise what can be known before anything is computed or written.

        Raises:
            CompatibilityError: a base, tokenizer or placement that this format cannot carry.
            SourceError: a base file that is damaged.
        """
        ...

    def write(self, student: StudentModel, rows: BakedRows | None, folder: Path) -> Exported:
        """Write the files into `folder`, which exists and is thrown away where this raises."""
        ...


EXPORTERS: Registry[type[Exporter]] = Registry("export format", "softguard.exporters")
"""Exporters by the name of their format."""


def check_carried(name: str, exporter: Exporter, adapter: Adapter) -> None:
    """Raise where a format cannot hold an adapter, and name the formats that can.

    Raises:
        CompatibilityError: it cannot.
    """
    kind = adapter_kind(adapter)
    if kind in exporter.carries:
        return
    others = [other for other in EXPORTERS if kind in EXPORTERS.get(other)().carries]
    todo = f"export it to {' or '.join(others)}" if others else "no export of this adapter is written yet"
    raise CompatibilityError(f"a {' or '.join(exporter.carries)}, which {name} holds", kind, todo)


def adapter_kind(adapter: Adapter) -> str:
    """Return the name that an adapter is registered under."""
    return next((kind for kind in ADAPTERS if isinstance(adapter, ADAPTERS.get(kind))), type(adapter).__name__)


def transformers_tolerance(dtype: torch.dtype) -> float:
    """Return how far log-probabilities may be from the student's, nats on the mean, where transformers runs the same weights.

    Only the order of sums differs: nothing in float32, the last of eight bits of each number in bf16.
    """
    return 0.02 if dtype == torch.float32 else 0.15


def new_names(count: int, taken: Sequence[str] = ()) -> tuple[str, ...]:
    """Return names for virtual tokens that nobody can guess: 64 random bits, new at each call.

    A runtime that parses special tokens in what users type would else let them write virtual tokens.
    """
    while True:
        secret = secrets.token_hex(8)
        names = tuple(f"<|{secret}_{k}|>" for k in range(count))
        if not set(names) & set(taken):
            return names
