"""CatQA and HarmfulQA: questions by category, for training (declare-lab; Apache-2.0)."""

from pathlib import Path
from typing import Any

from softguard.data.fetching import GitHubFile, HubFile
from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
from softguard.data.registry import PROMPT_SETS

FORM = "a JSON object of categories, subcategories and lists of questions"
HOME = "https://github.com/declare-lab/red-instruct"
FILES = [
    PublicFile(
        "catqa_red_instruct/catqa_english.json",
        FORM,
        HOME,
        GitHubFile(
            "declare-lab/red-instruct", "515aa9b0fc7bf50bdc0309c01b05721e808c8031", "harmful_questions/catqa_english.json"
        ),
    ),
    PublicFile(
        "catqa_red_instruct/harmfulqa.json",
        f"{FORM}, or a JSON list of objects with topic and question",
        HOME,
        HubFile("declare-lab/HarmfulQA", "data_for_hub.json", "6f1a78aed47d16c0695e4595d0159abc38197bfd"),
    ),
]


def _questions(row: dict[str, Any]) -> list[Picked]:
    """Return the questions of a whole file, or of one row where the file is the hub's list."""
    if "question" in row:
        return [Picked(row["question"], row["topic"])]
    return [Picked(q, category) for category, inner in row.items() for questions in inner.values() for q in questions]


@PROMPT_SETS.register("catqa")
def catqa(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the questions of both: harmful; `topic` is the category."""
    found = [picked for file in FILES for picked in read_prompts(file, data_dir, _questions)]
    return prompt_rows("catqa", "harmful", found, "train")
