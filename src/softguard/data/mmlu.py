"""MMLU: multiple-choice questions of 57 subjects, for usefulness (Hendrycks et al. 2021, arXiv 2009.03300; MIT)."""

from pathlib import Path

from softguard.data.document import Document, document, documents
from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts, read_rows
from softguard.data.registry import PROMPT_SETS

FILE = PublicFile(
    "mmlu/test.csv", "a CSV file with subject, question, A, B, C and D", "https://huggingface.co/datasets/cais/mmlu"
)


def _question(row: dict[str, str]) -> list[Picked]:
    options = "\n".join(f"{letter}. {row[letter]}" for letter in "ABCD")
    return [Picked(f"{row['question']}\n{options}", row["subject"])]


@PROMPT_SETS.register("mmlu")
def mmlu(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the test questions with their options, a line each: benign; `topic` is the subject."""
    return prompt_rows("mmlu", "benign", read_prompts(FILE, data_dir, _question), keep_minors=True)


def mmlu_documents(data_dir: Path | None = None) -> list[Document]:
    """Return the test questions with their options and the place of the right one; `topic` is the subject."""
    return documents(read_rows(FILE, data_dir, _graded))


def _graded(row: dict[str, str]) -> list[Document]:
    fields = {
        "question": row["question"],
        "subject": row["subject"],
        "choices": [row[letter] for letter in "ABCD"],
        "answer": {"A": 0, "B": 1, "C": 2, "D": 3}[row["answer"]],
    }
    return [document(fields, row["subject"])]
