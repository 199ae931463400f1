"""New vocabulary in a GGUF file: its tokenizer's tables longer by virtual tokens and the refusal's entry, its embedding table and
head by their rows.

What is not named here is copied byte for byte. Pure functions of an open file; nothing is written.
"""

from dataclasses import dataclass

import numpy as np
from gguf.constants import GGMLQuantizationType as Type
from gguf.constants import GGUFValueType as ValueType

from softguard.errors import CompatibilityError
from softguard.export.gguf_file import GGUFFile, NewTensor, Tensor, Value
from softguard.export.quantised import PRECISE, Floats, as_stored, decode, decoded, encodable, encode

EMBEDDING, HEAD, HEAD_BIAS = "token_embd.weight", "output.weight", "output.bias"
TOKENS, TYPES, SCORES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores"
NORMAL, CONTROL = 1, 3
"""llama.cpp's types: of a token whose text is shown and made by merges alone; of one that is parsed as one and never shown."""
_OTHER_BASE = "name the GGUF of this run's base model with --base"


@dataclass(frozen=True)
class RefusalRows:
    """What the refusal changes in the head: D added to the row of token `first`, and the row of its entry, D."""

    first: int
    added: Floats
    entry: Floats


@dataclass(frozen=True)
class BakedTensors:
    """All tensors of the new file, and the new head rows as that file stores them: `silent`, and `refusal` where there is one."""

    tensors: tuple[NewTensor, ...]
    stored: dict[str, Floats]


def check_tables(file: GGUFFile, tokens: list[str], width: int) -> None:
    """Check that a file's tokenizer can be extended safely and is the one of the student.

    Args:
        file: the base.
        tokens: the student's vocabulary in the order of ids.
        width: D of the student.

    Raises:
        CompatibilityError: another tokenizer kind, another vocabulary, another width, tables that do not go together.
    """
    kind = file.scalar("tokenizer.ggml.model")
    if kind != "gpt2":
        todo = "export to hf-baked, or choose a base with a byte-level BPE tokenizer"
        raise CompatibilityError("a byte-level BPE tokenizer ('gpt2'), the one kind that is extended", repr(kind)[:40], todo)
    found, types = file.items(TOKENS), file.items(TYPES)
    if len(types) != len(found):
        raise CompatibilityError(f"a token type for each of {len(found)} tokens", str(len(types)), "convert the base again")
    for name in (EMBEDDING, *((HEAD,) if HEAD in file.tensors else ())):
        if name not in file.tensors:
            raise CompatibilityError(f"the tensor {name}", "none", "choose a base that is a language model")
        if file.tensors[name].shape != (width, len(found)):
            raise CompatibilityError(f"{name} of {(width, len(found))}", str(file.tensors[name].shape), _OTHER_BASE)
    if HEAD_BIAS in file.tensors:
        raise CompatibilityError("a head without bias", HEAD_BIAS, "choose another base model")
    same = found[: len(tokens)] == tokens
    if not same or any(not str(t).startswith("[PAD") for t in found[len(tokens) :]):
        raise CompatibilityError("the vocabulary of the run's base model", "another", _OTHER_BASE)


def check_weights(file: GGUFFile, rows: np.ndarray, embeddings: Floats, least: float = 0.98) -> None:
    """Check on some embedding rows that a file holds the student's base model, maybe in another quantisation.

    Raises:
        CompatibilityError: the rows of the two point elsewhere (cosine below `least` on the mean).
    """
    there = decode(file, EMBEDDING, rows)
    norms = np.linalg.norm(there, axis=1) * np.linalg.norm(embeddings, axis=1)
    cosine = float(np.mean((there * embeddings).sum(1) / np.maximum(norms, 1e-12)))
    if not cosine >= least:
        raise CompatibilityError("the embeddings of the run's base model", f"others (cosine {cosine:.3f})", _OTHER_BASE)


def bake_metadata(
    file: GGUFFile, names: tuple[str, ...], refusal: str | None, template: str, base_sha256: str
) -> dict[str, Value]:
    """Return the metadata of the new file: tables extended, template replaced, BOS left to the template.

    Args:
        file: the base.
        names: of the virtual tokens.
        refusal: the refusal's entry as the vocabulary writes it, None where there is none.
        template: the chat template.
        base_sha256: recorded in the file.
    """
    texts, kinds = list(names), [CONTROL] * len(names)
    if refusal is not None:
        texts, kinds = [*texts, refusal], [*kinds, NORMAL]
    metadata = {k: v for k, v in file.metadata.items() if not k.startswith("tokenizer.chat_template")}
    metadata[TOKENS] = _extended(file, TOKENS, texts)
    metadata[TYPES] = _extended(file, TYPES, kinds)
    if SCORES in metadata:
        metadata[SCORES] = _extended(file, SCORES, [0.0] * len(texts))
    size_key = f"{file.scalar('general.architecture')}.vocab_size"
    if size_key in metadata:
        metadata[size_key] = Value.number(metadata[size_key].type, len(file.items(TOKENS)) + len(texts))
    metadata["tokenizer.chat_template"] = Value.text(template)
    # Training renders BOS where the template writes it and nowhere else: a runtime that put one in front would move every token.
    metadata["tokenizer.ggml.add_bos_token"] = Value.number(ValueType.BOOL, False)
    metadata["softguard.virtual_tokens"] = Value.number(ValueType.UINT32, len(names))
    metadata["softguard.base_sha256"] = Value.text(base_sha256)
    return metadata


def bake_tensors(file: GGUFFile, inputs: Floats, silent: Floats, refusal: RefusalRows | None) -> BakedTensors:
    """Return the tensors of the new file. A tied head becomes a tensor of its own, a copy of the embedding table as it was.

    Args:
        file: the base.
        inputs: rows of the embedding table for the virtual tokens and, last, for the refusal's entry where there is one.
        silent: the head row of a virtual token.
        refusal: what the refusal changes in the head, or None.

    The embedding table keeps its type where that is precise enough for rows that were trained (`PRECISE`), else it becomes Q8_0:
    a row of 4 or 6 bits would not be the row that was learnt. The head keeps its type: nothing there needs precision.
    """
    embedding = _appendable(file, EMBEDDING, PRECISE)
    tied = HEAD not in file.tensors
    head = _appendable(file, EMBEDDING if tied else HEAD, None)
    last = {} if refusal is None else {"refusal": refusal.entry}
    old = (head.raw,) if refusal is None else _with_row(head, refusal)
    silents = np.tile(silent, (len(inputs) - len(last), 1))
    outputs = np.concatenate([silents, *(row[None] for row in last.values())])
    rows = file.tensors[EMBEDDING].shape[1] + len(inputs)
    shape = (file.tensors[EMBEDDING].shape[0], rows)
    made = {
        EMBEDDING: NewTensor(EMBEDDING, shape, embedding.type, (embedding.raw, encode(inputs, embedding.type))),
        HEAD: NewTensor(HEAD, shape, head.type, (*old, encode(outputs, head.type))),
    }
    tensors = [made.pop(t.name) if t.name in made else _copied(file, t) for t in file.tensors.values()]
    tensors += made.values()
    stored = {name: as_stored(row[None], head.type)[0] for name, row in ({"silent": silent} | last).items()}
    return BakedTensors(tuple(tensors), stored)


@dataclass(frozen=True)
class _Table:
    """A table that rows can be appended to."""

    raw: np.ndarray
    type: Type

    def rows(self, which: slice) -> Floats:
        return decoded(self.raw[which], self.type)


def _with_row(head: _Table, refusal: RefusalRows) -> tuple[np.ndarray, ...]:
    """Return the bytes of a head with one row changed."""
    at = refusal.first
    row = head.rows(slice(at, at + 1)) + refusal.added
    return head.raw[:at], encode(row, head.type), head.raw[at + 1 :]


def _appendable(file: GGUFFile, name: str, kinds: tuple[Type, ...] | None) -> _Table:
    kind = file.tensors[name].type
    if kind in kinds if kinds else encodable(kind):
        return _Table(file.data(name), kind)
    wanted = Type.Q8_0 if file.tensors[name].shape[0] % 32 == 0 else Type.F16
    return _Table(encode(decode(file, name), wanted), wanted)


def _copied(file: GGUFFile, tensor: Tensor) -> NewTensor:
    return NewTensor(tensor.name, tensor.shape, tensor.type, (file.data(tensor.name),))


def _extended(file: GGUFFile, key: str, items: list[str] | list[int] | list[float]) -> Value:
    return Value.array(file.metadata[key].item_type, [*file.items(key), *items])
