"""A student as a network and a tokenizer of transformers with the virtual tokens in their vocabulary.

What `hf-baked` writes as a folder and `onnx` as a graph.
"""

import copy
from typing import Any

import torch
from tokenizers import AddedToken
from torch import nn

from softguard.errors import CompatibilityError
from softguard.export.chat_template import bake_template, check_template
from softguard.export.gguf import input_rows
from softguard.export.head import HeadRows
from softguard.export.protocol import StudentModel


def check_bakeable(student: StudentModel) -> None:
    """Raise where a base model's tables or template cannot take the virtual tokens.

    Raises:
        CompatibilityError: a head with a bias, tokens without a row, a template that comes out otherwise.
    """
    lm = student.lm
    if lm.output_head.bias is not None:
        raise CompatibilityError("a head without bias", "one with a bias", "choose another base model")
    if len(lm.tokenizer) > len(lm.embedding_weight):
        found = f"{len(lm.tokenizer)} tokens and {len(lm.embedding_weight)} rows"
        raise CompatibilityError("a row for each token", found, "choose another base model")
    baked = bake_template(lm.tokenizer.chat_template, student.names_by_slot, lm.tokenizer)
    check_template(baked, lm.tokenizer, student.layout, student.names)


def baked_tokenizer(student: StudentModel) -> Any:
    """Return a copy of the tokenizer with the virtual tokens' names, from the id `first_baked_id` on, and their template."""
    tokenizer: Any = copy.deepcopy(student.lm.tokenizer)
    template = bake_template(tokenizer.chat_template, student.names_by_slot, tokenizer)
    # Tokenizers may have fewer tokens than the table has rows: the names have to come where the new rows are.
    blank = [f"{student.names[0][:-2]}_unused_{k}|>" for k in range(first_baked_id(student) - len(tokenizer))]
    tokenizer.add_tokens([AddedToken(n, special=True, normalized=False) for n in (*blank, *student.names)])
    tokenizer.chat_template = template
    tokenizer.add_bos_token = False
    return tokenizer


def first_baked_id(student: StudentModel) -> int:
    """Return the id of virtual token 0: the first after the base model's table."""
    return len(student.lm.embedding_weight)


@torch.inference_mode()
def baked_network(student: StudentModel, rows: HeadRows) -> Any:
    """Return a copy of the network on the processor, with its tables extended and its head untied."""
    lm = student.lm
    config = copy.deepcopy(lm.network.config)
    size = len(lm.embedding_weight) + len(student.names)
    network: Any = copy.deepcopy(lm.network)
    head = lm.output_head.weight.detach().clone()
    head[student.refusal_token] += rows.refusal_shift.to(head)
    head = torch.cat([head, rows.silent.to(head).expand(len(student.names), -1)])
    table = torch.cat([lm.embedding_weight, torch.from_numpy(input_rows(student)).to(lm.embedding_weight)])
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
