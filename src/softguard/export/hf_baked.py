"""`hf-baked`: a Hugging Face folder with the virtual tokens in its vocabulary: an ordinary model to whoever reads such."""

import copy
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import nn

from softguard.errors import CompatibilityError
from softguard.export.chat_template import bake_template, check_template
from softguard.export.gguf import input_rows
from softguard.export.head import HeadRows
from softguard.export.protocol import EXPORTERS, Exported, StudentModel, transformers_tolerance
from softguard.runtimes import TransformersFolder


@EXPORTERS.register("hf-baked")
class HFBakedExporter:
    """Baked vocabulary in safetensors, tokenizer and template."""

    description = "a Hugging Face folder for transformers, vLLM, MLX and converters"
    carries = ("soft_prompt",)
    bakes_head = True

    def check(self, student: StudentModel) -> None:
        """See `Exporter.check`."""
        lm = student.lm
        if lm.output_head.bias is not None:
            raise CompatibilityError("a head without bias", "one with a bias", "choose another base model")
        if len(lm.tokenizer) > len(lm.embedding_weight):
            found = f"{len(lm.tokenizer)} tokens and {len(lm.embedding_weight)} rows"
            raise CompatibilityError("a row for each token", found, "choose another base model")
        baked = bake_template(lm.tokenizer.chat_template, student.names_by_slot, lm.tokenizer)
        check_template(baked, lm.tokenizer, student.layout, student.names)

    def write(self, student: StudentModel, rows: HeadRows | None, folder: Path) -> Exported:
        """See `Exporter.write`."""
        assert rows is not None
        lm = student.lm
        tokenizer: Any = copy.deepcopy(lm.tokenizer)
        template = bake_template(tokenizer.chat_template, student.names_by_slot, tokenizer)
        # Tokenizers may have fewer tokens than the table has rows: the names have to come where the new rows are.
        first = len(lm.embedding_weight)
        blank = [f"{student.names[0][:-2]}_unused_{k}|>" for k in range(first - len(tokenizer))]
        tokenizer.add_tokens([AddedToken(n, special=True, normalized=False) for n in (*blank, *student.names)])
        tokenizer.chat_template = template
        tokenizer.add_bos_token = False
        network = _extended(student, rows)
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return Exported(
            command="vllm serve .    # or transformers: AutoModelForCausalLM.from_pretrained('.')",
            facts={
                "file_bytes": sum(p.stat().st_size for p in folder.iterdir()),
                "dtype": str(lm.dtype).removeprefix("torch."),
                "head_was_tied": False,
                "weights": "the base's as the student was trained against, so a quantised base comes out dequantised",
            },
            notes=("Checked in transformers. vLLM, MLX and converters were not run.",),
            first_virtual_id=first,
            start=lambda at: TransformersFolder(at, lm.dtype),
            tolerance_nats=transformers_tolerance(lm.dtype),
        )


@torch.inference_mode()
def _extended(student: StudentModel, rows: HeadRows) -> Any:
    """Return a copy of the network with its tables extended and its head untied."""
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
