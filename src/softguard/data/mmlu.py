"""MMLU: multiple-choice questions of 57 subjects, for usefulness (Hendrycks et al. 2021, arXiv 2009.03300; MIT)."""

from pathlib import Path

from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
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
    return prompt_rows("mmlu", "benign", read_prompts(FILE, data_dir, _question))
