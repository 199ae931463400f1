"""CatQA and HarmfulQA: questions by category, for training (declare-lab; Apache-2.0)."""

from pathlib import Path

from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
from softguard.data.registry import PROMPT_SETS

FILES = [
    PublicFile(
        f"catqa_red_instruct/{name}",
        "a JSON object of categories, subcategories and lists of questions",
        "https://github.com/declare-lab/red-instruct",
    )
    for name in ("catqa_english.json", "harmfulqa.json")
]


def _questions(whole: dict[str, dict[str, list[str]]]) -> list[Picked]:
    return [Picked(q, category) for category, inner in whole.items() for questions in inner.values() for q in questions]


@PROMPT_SETS.register("catqa")
def catqa(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the questions of both: harmful; `topic` is the category."""
    found = [picked for file in FILES for picked in read_prompts(file, data_dir, _questions)]
    return prompt_rows("catqa", "harmful", found, "train")
