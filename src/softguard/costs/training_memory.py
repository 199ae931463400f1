"""Memory of distilling beside the weights, counted from the shape of a model: of a training step, and of sampling drafts.

One idea: the base is frozen, so linear layers keep nothing for the backward pass. What is kept is what norms, attention and the
gate were computed from: the same few tensors for every position and layer. `MEMORY_CONVENTION` says what is counted;
`benchmarks/speed/memory.py` measures a step, and a slow test holds one against the other.
"""

from dataclasses import dataclass

from softguard.costs.shape import ModelShape
from softguard.models.packing import ALIGNED

MEMORY_CONVENTION = (
    "Counted from the model's shape, about: for each position and layer the inputs of two norms in float32, queries, keys, "
    "values, attention weights and three tensors of a gated feed-forward layer in the weights' type (attention weights in "
    "float32 too, where sequences are not packed); one chunk of logits; and a third more, fitted to three measured steps. "
    "Prompts are taken at four characters a token, all of them with answer and refusal. Not counted: copies while weights are "
    "loaded or a GGUF file is dequantised, and evaluation after training."
)
HEAP = 1.35
"""What a process took over what is counted as alive: fitted to three steps in float32 (glibc, CPU; dev/LOG.md)."""
_FLOAT32 = 4
_PRODUCTS, _PART_BUFFERS = 3, 6
"""Tensors of a chunk of logits, in the weights' type (one is of the chunk before), and of a part of it, in float32
(`objectives.fused_head`)."""
_FIRST_BUFFERS = 6
"""Tensors of the first position's logits, of student and teacher, that the decision is made of."""
_DRAWING_BUFFERS = 3
_TRAINED_COPIES = 4
"""A learned number in float32, its gradient, and Adam's two moments."""


@dataclass(frozen=True)
class Rows:
    """What goes through the body together.

    Attributes:
        count: sequences.
        positions: of each, not counting those that all share.
        shared: positions before them that are run once for all (`models.shared_prefix`).
    """

    count: int
    positions: int
    shared: int = 0


def kept_bytes(shape: ModelShape, rows: Rows, weight_bytes: int, *, fused: bool = False, packed: bool = False) -> int:
    """Return what a forward pass of the frozen model keeps for the backward pass, in bytes.

    Args:
        shape: of the model.
        rows: what goes through it.
        weight_bytes: of a number as weights and activations are held.
        fused: an attention kernel that keeps no attention weights, but keys and values for every query head, its output, and
            the mask.
        packed: our own kernel, which keeps attention weights in one type, and copies of queries, keys and values
            (`models.packing`).
    """
    layers, query, key = len(shape.windows), shape.query_width, shape.key_width
    keys = rows.shared + rows.positions
    gate = shape.body_weights / (layers * shape.width) - 2 * (query + key)  # what is not attention: 3 x its width where gated
    each = 2 * shape.width * _FLOAT32 + (query + gate) * weight_bytes
    held = (2 * query if fused else 2 * key) * weight_bytes
    if packed:
        each -= query * weight_bytes

        def row(shared: int, positions: int) -> float:
            width = -(-(shared + positions) // ALIGNED) * ALIGNED
            attention = (width - shared) * (query + shape.heads * width) + width * 2 * key
            return positions * each + attention * weight_bytes

        return round(layers * (rows.count * row(rows.shared, rows.positions) + row(0, rows.shared)))
    if fused:
        each, score = each + query * weight_bytes, 0
    else:
        score = shape.heads * (_FLOAT32 + (weight_bytes if weight_bytes != _FLOAT32 else 0))
    own = rows.count * (rows.positions * (each + score * keys) + keys * held)
    once = rows.shared * (each + score * rows.shared + held)
    mask = rows.count * rows.positions * keys * weight_bytes if fused else 0  # one for all layers
    return round(layers * (own + once) + mask)


def step_bytes(
    shape: ModelShape,
    rows: Rows,
    weight_bytes: int,
    *,
    learned: int,
    response_positions: int,
    chunk_bytes: int,
    part_logits: int,
    fused: bool = False,
    packed: bool = False,
) -> int:
    """Return what a training step needs beside the weights, in bytes: activations with the heap's gaps, a chunk of logits, W
    with Adam's state.

    Args:
        shape: of the model.
        rows: of one pass; passes of an accumulated step follow one another.
        weight_bytes: see `kept_bytes`.
        learned: numbers of the adapter.
        response_positions: positions of all rows that get logits.
        chunk_bytes: of products that are made together (`objectives.fused_head.CHUNK_BYTES`).
        part_logits: logits that are worked on together (`PART_LOGITS`).
        fused: see `kept_bytes`.
        packed: see `kept_bytes`.
    """
    vocabulary = shape.head_weights // shape.width
    kept = HEAP * kept_bytes(shape, rows, weight_bytes, fused=fused, packed=packed)
    backwards = kept / len(shape.windows)  # gradients of one layer's tensors
    fit = (chunk_bytes // weight_bytes, part_logits)
    chunk, part = (min(max(most, vocabulary), response_positions * vocabulary) for most in fit)
    chunk = chunk * weight_bytes * _PRODUCTS + part * _FLOAT32 * _PART_BUFFERS
    first = rows.count * vocabulary * _FLOAT32 * _FIRST_BUFFERS
    return round(kept + max(backwards, chunk) + first + learned * _FLOAT32 * _TRAINED_COPIES)


def sampling_bytes(shape: ModelShape, rows: Rows, weight_bytes: int) -> int:
    """Return what sampling needs beside the weights, in bytes: keys and values of all rows, one layer's tensors, and logits.

    Args:
        shape: of the model.
        rows: that decode together, each with its answer whole.
        weight_bytes: see `kept_bytes`.
    """
    cache = rows.count * shape.cache_numbers(rows.shared + rows.positions) * weight_bytes
    layer = kept_bytes(shape, rows, weight_bytes) / len(shape.windows)
    logits = rows.count * (shape.head_weights // shape.width) * _FLOAT32 * _DRAWING_BUFFERS
    return round(cache + layer + logits)
