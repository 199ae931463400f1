"""AdvBench: instructions of many kinds, for evaluation (Zou et al. 2023, arXiv 2307.15043; MIT)."""

from pathlib import Path

from softguard.data.fetching import GitHubFile
from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
from softguard.data.registry import PROMPT_SETS

FILE = PublicFile(
    "advbench/harmful_behaviors.csv",
    "a CSV file with the column goal",
    "https://github.com/llm-attacks/llm-attacks/tree/main/data/advbench",
    GitHubFile("llm-attacks/llm-attacks", "098262edf85f807224e70ecd87b9d83716bf6b73", "data/advbench/harmful_behaviors.csv"),
)


@PROMPT_SETS.register("advbench")
def advbench(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the goals: harmful."""
    return prompt_rows("advbench", "harmful", read_prompts(FILE, data_dir, lambda row: [Picked(row["goal"])]))
