"""IFEval: instructions whose fulfilment can be checked, for usefulness (Zhou et al. 2023, arXiv 2311.07911; Apache-2.0)."""

from pathlib import Path
from typing import Any

from softguard.data.document import Document, document, documents
from softguard.data.fetching import HubFile
from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts, read_rows
from softguard.data.registry import PROMPT_SETS

FILE = PublicFile(
    "ifeval/input_data.jsonl",
    "JSON lines with a prompt",
    "https://huggingface.co/datasets/google/IFEval",
    HubFile("google/IFEval", "ifeval_input_data.jsonl", "966cd89545d6b6acfd7638bc708b98261ca58e84"),
)


@PROMPT_SETS.register("ifeval")
def ifeval(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the prompts: benign."""
    found = read_prompts(FILE, data_dir, lambda row: [Picked(row["prompt"])])
    return prompt_rows("ifeval", "benign", found, keep_minors=True)


def ifeval_documents(data_dir: Path | None = None) -> list[Document]:
    """Return the prompts with the instructions that a program checks."""
    return documents(read_rows(FILE, data_dir, _graded))


def _graded(row: dict[str, Any]) -> list[Document]:
    fields = {name: row[name] for name in ("key", "prompt", "instruction_id_list", "kwargs")}
    # Copies of the set differ in the key, and in whether absent arguments are written as null.
    return [document(fields, unnamed=("key", "kwargs"))]
