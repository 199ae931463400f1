"""MMLU: multiple-choice questions of 57 subjects, for usefulness (Hendrycks et al. 2021, arXiv 2009.03300; MIT).

A folder has a CSV file with a column for each choice; the home has Parquet with a list of them and the place of the right one. It
was not seen: readers state commit, name and fields.
"""

from pathlib import Path
from typing import Any

from softguard.data.document import Document, document, documents
from softguard.data.fetching import HubFile
from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts, read_rows
from softguard.data.registry import PROMPT_SETS

FILE = PublicFile(
    "mmlu/test.csv",
    "a CSV file with subject, question, A, B, C and D",
    "https://huggingface.co/datasets/cais/mmlu",
    HubFile("cais/mmlu", "all/test-00000-of-00001.parquet", "c30699e8356da336a370243923dbaf21066bb9fe"),
)
_PLACES = {name: place for place, letter in enumerate("ABCD") for name in (letter, place)}


def _choices(row: dict[str, Any]) -> list[str]:
    return [row["choices"][place] if "choices" in row else row[letter] for place, letter in enumerate("ABCD")]


def _question(row: dict[str, Any]) -> list[Picked]:
    options = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCD", _choices(row), strict=True))
    return [Picked(f"{row['question']}\n{options}", row["subject"])]


@PROMPT_SETS.register("mmlu")
def mmlu(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the test questions with their options, a line each: benign; `topic` is the subject."""
    return prompt_rows("mmlu", "benign", read_prompts(FILE, data_dir, _question), keep_minors=True)


def mmlu_documents(data_dir: Path | None = None) -> list[Document]:
    """Return the test questions with their options and the place of the right one; `topic` is the subject."""
    return documents(read_rows(FILE, data_dir, _graded))


def _graded(row: dict[str, Any]) -> list[Document]:
    fields = {
        "question": row["question"],
        "subject": row["subject"],
        "choices": _choices(row),
        "answer": _PLACES[row["answer"]],
    }
    return [document(fields, row["subject"])]
