"""SORRY-Bench, 2025/03: requests of 44 kinds, ten of each (Xie et al. 2024, arXiv 2406.14598; its own licence).

Its terms have to be accepted at its home first. The file was not seen; its card states the name, its readers the fields.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from softguard.data.fetching import HubFile
from softguard.data.prompt import PromptRow, mentions_minors
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
from softguard.data.registry import PROMPT_SETS

FILE = PublicFile(
    "sorry_bench/question.jsonl",
    "JSON lines with question_id, category, turns and prompt_style",
    "https://huggingface.co/datasets/sorry-bench/sorry-bench-202503 (accept its terms, then `hf auth login`)",
    HubFile("sorry-bench/sorry-bench-202503", "question.jsonl"),
)


def _request(row: dict[str, Any]) -> list[Picked]:
    plain = row.get("prompt_style", "base") == "base"
    return [Picked(row["turns"][0], str(row["category"]))] if plain else []


@PROMPT_SETS.register("sorry_bench")
def sorry_bench(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the requests in their plain form: harmful; `topic` is the number of the category.

    Categories have numbers here, not names: one of which half the requests speak of minors is dropped whole.
    """
    found = read_prompts(FILE, data_dir, _request)
    of, about = Counter(p.topic for p in found), Counter(p.topic for p in found if mentions_minors(p.prompt))
    return prompt_rows("sorry_bench", "harmful", [p for p in found if 2 * about[p.topic] < of[p.topic]])
