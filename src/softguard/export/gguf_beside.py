"""What adapter files have in common that llama.cpp loads beside the base's own GGUF, which stays the user's file as it is."""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from softguard.errors import CompatibilityError
from softguard.export.gguf import TOLERANCE_NATS, check_embeddings, open_base
from softguard.export.gguf_baking import EMBEDDING
from softguard.export.gguf_file import GGUFFile
from softguard.export.protocol import Exported, StudentModel
from softguard.runtimes import LlamaServer, find_llama_server

ARCHITECTURE, ADD_BOS = "general.architecture", "tokenizer.ggml.add_bos_token"


def checked_base(student: StudentModel) -> GGUFFile:
    """Return the base's file, which holds the student's base model in some quantisation.

    Raises:
        CompatibilityError: no file, or another model.
        SourceError: a damaged one.
    """
    file = open_base(student)
    shape = file.tensors[EMBEDDING].shape if EMBEDDING in file.tensors else ()
    if len(shape) != 2 or shape[0] != student.lm.width or shape[1] < student.known_tokens:
        wanted = f"{EMBEDDING} of {(student.lm.width, student.known_tokens)}"
        raise CompatibilityError(wanted, str(shape or "none"), "name the GGUF of this run's base model with --base")
    check_embeddings(file, student)
    return file


def exported(
    student: StudentModel,
    file: GGUFFile,
    target: Path,
    options: Callable[[str], tuple[str, ...]],
    facts: Mapping[str, Any],
    notes: tuple[str, ...],
) -> Exported:
    """Return what is said of an adapter file.

    Args:
        student: that was exported.
        file: the base.
        target: the adapter file.
        options: of llama-server, given the adapter file's name.
        facts: of the file.
        notes: what the format leaves open.
    """
    assert student.base is not None
    base, bos = student.base, _no_second_bos(file)
    command = ("llama-server", "-m", str(student.base.resolve()), *options(target.name), *bos)
    return Exported(
        command=f"{shlex.join(command)} --jinja --host 127.0.0.1 --port 8080",
        facts={
            "file": target.name,
            "file_bytes": target.stat().st_size,
            "base": student.base.name,
            "base_sha256": student.base_sha256,
            "base_is_the_trained_one": student.own_base,
            "base_bytes": student.base.stat().st_size,
            **facts,
        },
        notes=(
            f"The base stays a file of its own: `-m` names {student.base.name} where this machine has it. Other quantisations of "
            "the same model load too; this one was checked.",
            "Run `llama-server` with `--jinja`: without it, it may use a template of its own.",
            *notes,
        ),
        start=lambda at: LlamaServer(base, find_llama_server(), arguments=(*options(str(at / target.name)), *bos)),
        tolerance_nats=TOLERANCE_NATS,
    )


def _no_second_bos(file: GGUFFile) -> tuple[str, ...]:
    """Return options that leave BOS to the template, as training did; none where the file says so itself."""
    return () if file.scalar(ADD_BOS) is False else ("--override-kv", f"{ADD_BOS}=bool:false")
