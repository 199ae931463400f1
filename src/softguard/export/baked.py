"""A student as a network and a tokenizer of transformers with the virtual tokens in their vocabulary.

What `hf-baked` writes as a folder and `onnx` as a graph.
"""

import copy
import json
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer
from torch import nn

from softguard.errors import CompatibilityError
from softguard.export.chat_template import bake_template, check_template
from softguard.export.gguf import input_rows
from softguard.export.protocol import StudentModel
from softguard.export.refusal_entry import BakedRows


def check_bakeable(student: StudentModel) -> None:
    """Raise where a base model's tables or template cannot take the virtual tokens.

    Raises:
        CompatibilityError: 4-bit weights, a head with a bias, tokens without a row, a template that comes out otherwise.
    """
    lm = student.lm
    if lm.quantisation != "none":
        todo = "export to peft or vllm-embeds, or to gguf with a GGUF file of this model at --base"
        raise CompatibilityError("a base model whose weights can be written as they are", f"{lm.quantisation} weights", todo)
    if lm.output_head.bias is not None:
        raise CompatibilityError("a head without bias", "one with a bias", "choose another base model")
    if len(lm.tokenizer) > len(lm.embedding_weight):
        found = f"{len(lm.tokenizer)} tokens and {len(lm.embedding_weight)} rows"
        raise CompatibilityError("a row for each token", found, "choose another base model")
    baked = bake_template(lm.tokenizer.chat_template, student.names_by_slot, lm.tokenizer)
    check_template(baked, lm.tokenizer, student.layout, student.names)


def baked_tokenizer(student: StudentModel, rows: BakedRows) -> Any:
    """Return a copy of the tokenizer with the virtual tokens' names, from the id `first_baked_id` on, and their template.

    The refusal's entry comes after them, in the vocabulary alone: an added token would be parsed wherever somebody writes its
    text. Special tokens are written into the vocabulary too, which is how their ids stay theirs when the file is read again.

    Raises:
        CompatibilityError: a vocabulary that cannot say the refusal in one entry.
    """
    tokenizer: Any = copy.deepcopy(student.lm.tokenizer)
    template = bake_template(tokenizer.chat_template, student.names_by_slot, tokenizer)
    # Tokenizers may have fewer tokens than the table has rows: the names have to come where the new rows are.
    blank = [f"{student.names[0][:-2]}_unused_{k}|>" for k in range(first_baked_id(student) - len(tokenizer))]
    tokenizer.add_tokens([AddedToken(n, special=True, normalized=False) for n in (*blank, *student.names)])
    if rows.refusal is not None:
        _add_entry(tokenizer, student)
    tokenizer.chat_template = template
    tokenizer.add_bos_token = False
    return tokenizer


def _add_entry(tokenizer: Any, student: StudentModel) -> None:
    """Put the refusal's entry into a tokenizer, after all that it has.

    Raises:
        CompatibilityError: not a BPE vocabulary, or one that reads the entry otherwise.
    """
    found = json.loads(tokenizer.backend_tokenizer.to_str())
    todo = "export to gguf, or report this tokenizer"
    if found["model"].get("type") != "BPE":
        raise CompatibilityError("a BPE tokenizer, which can be extended", str(found["model"].get("type")), todo)
    vocabulary = found["model"]["vocab"] | {t["content"]: t["id"] for t in found["added_tokens"]}
    entry, at = student.refusal_entry, first_baked_id(student) + len(student.names)
    if entry in vocabulary:
        raise CompatibilityError("a refusal of several tokens", "one of a single token", "set a longer refusal text")
    found["model"]["vocab"] = vocabulary | {entry: at}
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(found))  # transformers has no public way to replace it
    if tokenizer.decode([at]) != student.refusal_text:
        raise CompatibilityError("an entry that reads as the refusal", "another text", todo)


def first_baked_id(student: StudentModel) -> int:
    """Return the id of virtual token 0: the first after the base model's table."""
    return len(student.lm.embedding_weight)


@torch.inference_mode()
def baked_network(student: StudentModel, rows: BakedRows) -> Any:
    """Return a copy of the network on the processor, with its tables extended and its head untied."""
    lm = student.lm
    config = copy.deepcopy(lm.network.config)
    inputs = torch.from_numpy(input_rows(student, rows)).to(lm.embedding_weight)
    size = len(lm.embedding_weight) + len(inputs)
    network: Any = copy.deepcopy(lm.network)
    head = lm.output_head.weight.detach()
    head = torch.cat([head, rows.silent.to(head).expand(len(student.names), -1)])
    if rows.refusal is not None:
        head = torch.cat([head, rows.refusal.head.to(head)[None]])
        head[student.refusal_token] += rows.refusal.first_token.to(head)
    table = torch.cat([lm.embedding_weight, inputs])
    network.config = config
    network.config.tie_word_embeddings = False
    network.config.vocab_size = size
    embedding = network.get_input_embeddings()
    embedding.weight = nn.Parameter(table.clone(), requires_grad=False)
    embedding.num_embeddings = size
    layer = nn.Linear(lm.width, size, bias=False, dtype=lm.dtype)
    layer.weight = nn.Parameter(head.clone(), requires_grad=False)
    network.set_output_embeddings(layer)
    return network.to("cpu")
