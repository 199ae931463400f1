"""A two-layer random Llama as a GGUF file, written with the `gguf` package, as llama.cpp and transformers read it."""

from pathlib import Path

import gguf
import numpy as np
from gguf.constants import GGMLQuantizationType as Type
from tokenizers import pre_tokenizers

from tests.fakes import CHATML

WIDTH, HIDDEN, LAYERS, HEADS, KV_HEADS = 32, 64, 2, 4, 2
MERGES = (("h", "e"), ("Ġ", "t"), ("Ġt", "he"), ("o", "r"), ("S", "or"))
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")


def tokens() -> list[str]:
    """Return the vocabulary: special tokens, 256 bytes, and what the merges make."""
    return [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in MERGES)]


def as_bf16(values: np.ndarray) -> np.ndarray:
    """Return float32 numbers cut to what bf16 holds."""
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def write_tiny_gguf(
    path: Path,
    *,
    embedding: Type = Type.Q8_0,
    weights: Type = Type.Q8_0,
    tied: bool = True,
    tokenizer: str = "gpt2",
    add_bos: bool = False,
    template: str = CHATML,
    seed: int = 0,
    width: int = WIDTH,
) -> Path:
    """Write the file and return its path. What is F32 is bf16 in effect: a model loaded through bf16 has the same numbers."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    vocabulary = tokens()
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(2048)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(width // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model(tokenizer)
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(vocabulary) - len(SPECIAL)))
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    if add_bos:
        writer.add_add_bos_token(True)
    writer.add_chat_template(template)

    # llama-server fails on answers that are no UTF-8: whatever is not printable ASCII is hardly ever the likeliest.
    said = np.array([len(t) == 1 and t.isascii() for t in vocabulary])

    def add(name: str, rows: int, columns: int, kind: Type = weights, scale: float = 0.3) -> None:
        values = rng.normal(0.0, scale, (rows, columns)).astype(np.float32)
        if rows == len(vocabulary):
            values[~said] *= 0.05
        if kind == Type.F32:
            values = as_bf16(values)
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", len(vocabulary), width, embedding, 1.0)
    if not tied:
        add("output.weight", len(vocabulary), width, embedding, 1.0)
    last = rng.uniform(0.5, 1.5, width).astype(np.float32)
    writer.add_tensor("output_norm.weight", as_bf16(last) if weights == Type.F32 else last)
    for k in range(LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{k}.{norm}.weight", np.ones(width, np.float32))
        shared = width // HEADS * KV_HEADS
        for name, rows, columns in (
            ("attn_q", width, width),
            ("attn_k", shared, width),
            ("attn_v", shared, width),
            ("attn_output", width, width),
            ("ffn_gate", HIDDEN, width),
            ("ffn_up", HIDDEN, width),
            ("ffn_down", width, HIDDEN),
        ):
            add(f"blk.{k}.{name}.weight", rows, columns)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
