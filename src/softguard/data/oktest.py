"""OKTest: safe questions around words that alarm, for evaluation (Shi et al. 2024, arXiv 2401.17633; no licence stated).

Format seen: https://github.com/InvokerStark/OverKill/blob/51809bb9e7c029d7cc1247389e0578da92e784e2/data/OKTest.csv
"""

from pathlib import Path

from softguard.data.fetching import GitHubFile
from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
from softguard.data.registry import PROMPT_SETS

FILE = PublicFile(
    "oktest/OKTest.csv",
    "a CSV file with prompt",
    "https://github.com/InvokerStark/OverKill/tree/main/data",
    GitHubFile("InvokerStark/OverKill", "51809bb9e7c029d7cc1247389e0578da92e784e2", "data/OKTest.csv"),
)


@PROMPT_SETS.register("oktest")
def oktest(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the questions: look-alikes."""
    return prompt_rows("oktest", "look_alike", read_prompts(FILE, data_dir, lambda row: [Picked(row["prompt"])]))
