"""MT-Bench: open questions in two turns, for chat (Zheng et al. 2023, arXiv 2306.05685; Apache-2.0)."""

from pathlib import Path

from softguard.data.fetching import HubFile
from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
from softguard.data.registry import PROMPT_SETS

FILE = PublicFile(
    "mt_bench/question.jsonl",
    "JSON lines with a category and turns",
    "https://huggingface.co/spaces/lmsys/mt-bench",
    HubFile("lmsys/mt-bench", "data/mt_bench/question.jsonl", repo_type="space"),
)


@PROMPT_SETS.register("mt_bench")
def mt_bench(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the first turns: benign; `topic` is the category."""
    found = read_prompts(FILE, data_dir, lambda row: [Picked(row["turns"][0], row["category"])])
    return prompt_rows("mt_bench", "benign", found)
