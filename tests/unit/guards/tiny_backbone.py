"""A two-layer random BERT with a word-piece tokenizer of a few words, written as a Hugging Face folder."""

from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

WORDS = [
    *("how", "to", "make", "a", "bomb", "cake", "sorry", "i", "cannot", "help", "mix", "flour", "powder", "first"),
    *("then", "you", "need", "it", ".", ",", "?", "kill", "process", "the"),
]


def write_tiny_backbone(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    letters = [c for letter in "abcdefghijklmnopqrstuvwxyz" for c in (letter, f"##{letter}")]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *(x for x in letters if x not in WORDS)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder
