"""`gguf`: the user's own GGUF with the virtual tokens in its vocabulary, for an unmodified llama.cpp and what is built on it."""

import math
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from softguard.core import Conversation
from softguard.errors import CompatibilityError
from softguard.export.chat_template import bake_template, check_template
from softguard.export.gguf_baking import EMBEDDING, HEAD, RefusalRows, bake_metadata, bake_tensors, check_tables, check_weights
from softguard.export.gguf_file import GGUFFile, write_gguf
from softguard.export.protocol import EXPORTERS, Exported, StudentModel
from softguard.export.quantised import Floats
from softguard.export.refusal_entry import BakedRows
from softguard.models import ChatRenderer
from softguard.runtimes import LlamaServer, find_llama_server

_CHECKED_ROWS = 64
TOLERANCE_NATS = 0.5
"""llama.cpp rounds activations to 8 bits before each product with quantised weights, and keeps keys and values in half
precision."""


@EXPORTERS.register("gguf")
class GGUFExporter:
    """Baked vocabulary in GGUF."""

    description = "one GGUF file for llama.cpp and Ollama, from the base's GGUF"
    carries = ("soft_prompt",)
    bakes_head = True

    def check(self, student: StudentModel) -> None:
        """See `Exporter.check`."""
        file = open_base(student)
        tokens = [str(t) for t in student.lm.tokenizer.convert_ids_to_tokens(list(range(student.known_tokens)))]
        check_tables(file, tokens, student.lm.width)
        check_embeddings(file, student)
        _template(student)

    def write(self, student: StudentModel, rows: BakedRows | None, folder: Path) -> Exported:
        """See `Exporter.write`."""
        assert rows is not None
        file = open_base(student)
        assert student.base is not None
        entry = rows.refusal
        outputs = None if entry is None else RefusalRows(student.refusal_token, _array(entry.first_token), _array(entry.head))
        baked = bake_tensors(file, input_rows(student, rows), _array(rows.silent), outputs)
        refusal = None if entry is None else student.refusal_entry
        metadata = bake_metadata(file, student.names, refusal, _template(student), student.base_sha256)
        target = folder / f"{student.title}.gguf"
        write_gguf(target, metadata, baked.tensors, file.alignment)
        (folder / "Modelfile").write_text(_modelfile(student, target.name), encoding="utf-8")
        kinds = {t.name: t.type.name for t in baked.tensors if t.name in (EMBEDDING, HEAD)}
        before, after = student.base.stat().st_size, target.stat().st_size
        return Exported(
            command=f"llama-server -m {target.name} --jinja --host 127.0.0.1 --port 8080",
            facts={
                "file": target.name,
                "base": student.base.name,
                "base_sha256": student.base_sha256,
                "base_is_the_trained_one": student.own_base,
                "file_bytes": after,
                "base_bytes": before,
                "growth": after / before - 1,
                "head_was_tied": HEAD not in file.tensors,
                "types": kinds,
                "stored_rows": baked.stored,
            },
            notes=(
                "The Modelfile for Ollama was written, not run.",
                "Run `llama-server` with `--jinja`: without it, it may use a template of its own, without the virtual tokens.",
                "The /completion endpoint takes a text as it is: only the chat endpoints put the virtual tokens in.",
            ),
            first_virtual_id=file.tensors[EMBEDDING].shape[1],
            start=lambda at: LlamaServer(at / target.name, find_llama_server()),
            tolerance_nats=TOLERANCE_NATS,
        )


def input_rows(student: StudentModel, rows: BakedRows) -> Floats:
    """Return the rows of the embedding table that come out of the embedding layer as what is baked.

    P x D of the virtual tokens and, where there is one, a row more for the refusal's entry.

    Gemma's layer scales its rows by sqrt(D), and a runtime that loads the file does so too.
    """
    probe = torch.arange(8, device=student.lm.device)
    plain = student.lm.embedding_weight[probe].float()
    scale = float((student.lm.embed(probe[None])[0].float() * plain).sum() / plain.square().sum())
    scale = 1.0 if math.isclose(scale, 1.0, rel_tol=1e-3) else scale
    wanted = [student.virtual_tokens] if rows.refusal is None else [student.virtual_tokens, rows.refusal.embedding[None]]
    found: Floats = (torch.cat([w.detach().float().cpu() for w in wanted]) / scale).numpy()
    return found


def _array(row: torch.Tensor) -> Floats:
    found: Floats = row.float().cpu().numpy()
    return found


def open_base(student: StudentModel) -> GGUFFile:
    """Return the base's file.

    Raises:
        CompatibilityError: there is none.
        SourceError: it is damaged.
    """
    if student.base is None:
        raise CompatibilityError("a GGUF of the base model", "none", "name it with --base FILE.gguf")
    return GGUFFile(student.base)


def check_embeddings(file: GGUFFile, student: StudentModel) -> None:
    """Check on some embedding rows that a file holds the student's base model (`check_weights`)."""
    rows = np.arange(0, student.known_tokens, max(1, student.known_tokens // _CHECKED_ROWS))
    check_weights(file, rows, student.lm.embedding_weight[torch.from_numpy(rows)].float().cpu().numpy())


def _template(student: StudentModel) -> str:
    tokenizer: Any = student.lm.tokenizer
    baked = bake_template(tokenizer.chat_template, student.names_by_slot, tokenizer)
    check_template(baked, tokenizer, student.layout, student.names)
    return baked


def _modelfile(student: StudentModel, file: str) -> str:
    """Return Ollama's recipe. Its templates are Go's, not Jinja's: what training renders, with fields for contents."""
    tokenizer: Any = student.lm.tokenizer
    renderer = ChatRenderer(tokenizer)
    turns = Conversation.from_prompt("{{ .Prompt }}", system="{{ .System }}" if renderer.around_system else None)
    ids = renderer.render(turns).insert(student.layout)
    pieces = [tokenizer.decode(list(run)) if real else _named(student, run) for real, run in groupby(ids, lambda i: i >= 0)]
    lines = [
        "# Written by softguard, not run: try it before you rely on it. One turn; for chats of several use llama-server.",
        f"FROM ./{file}",
        f'TEMPLATE """{"".join(pieces)}{{{{ .Response }}}}"""',
        f'PARAMETER stop "{tokenizer.convert_ids_to_tokens(student.lm.turn_end_id)}"',
        "PARAMETER temperature 0",
    ]
    if renderer.around_system:
        before, after = renderer.around_system
        own = renderer.user_opening.removeprefix(before).removesuffix(after)
        lines += [f'SYSTEM """{own}"""'] if own != renderer.user_opening else []
    return "\n".join(lines) + "\n"


def _named(student: StudentModel, run: Iterable[int]) -> str:
    return "".join(student.names[-i - 1] for i in run)
