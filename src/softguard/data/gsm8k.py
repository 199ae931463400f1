"""GSM8K: school sums in words, for usefulness (Cobbe et al. 2021, arXiv 2110.14168; MIT). The hub has it in Parquet only."""

from pathlib import Path

from softguard.data.document import Document, document, documents, subset
from softguard.data.fetching import GitHubFile
from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts, read_rows
from softguard.data.registry import PROMPT_SETS


def _file(name: str) -> PublicFile:
    home = "https://github.com/openai/grade-school-math/tree/master/grade_school_math/data"
    remote = GitHubFile(
        "openai/grade-school-math", "3101c7d5072418e28b9008a6636bde82a006892c", f"grade_school_math/data/{name}.jsonl"
    )
    return PublicFile(f"gsm8k/{name}.jsonl", "JSON lines with a question", home, remote)


def _questions(name: str, data_dir: Path | None) -> list[Picked]:
    return read_prompts(_file(name), data_dir, lambda row: [Picked(row["question"])])


def _documents(name: str, data_dir: Path | None) -> list[Document]:
    rows = read_rows(_file(name), data_dir, lambda row: [document({n: row[n] for n in ("question", "answer")})])
    return documents(rows)


@PROMPT_SETS.register("gsm8k_train")
def gsm8k_train(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the training questions: benign."""
    return prompt_rows("gsm8k", "benign", _questions("train", data_dir), "train", keep_minors=True)


@PROMPT_SETS.register("gsm8k_test")
def gsm8k_test(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the test questions: benign."""
    return prompt_rows("gsm8k_test", "benign", _questions("test", data_dir), keep_minors=True)


def gsm8k_documents(data_dir: Path | None = None) -> list[Document]:
    """Return the test questions with their worked answers."""
    return _documents("test", data_dir)


def gsm8k_shots(data_dir: Path | None = None) -> list[Document]:
    """Return the five training questions that are shown with their worked answers: fixed, as `data/subsets` lists them."""
    return subset("gsm8k_shots", _documents("train", data_dir))
