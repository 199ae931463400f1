"""JailbreakBench: harmful behaviours, and benign ones on the same themes (Chao et al. 2024, arXiv 2404.01318; MIT).

The files were not seen; their columns are as their readers have them.
"""

from dataclasses import replace
from pathlib import Path

from softguard.data.fetching import HubFile
from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
from softguard.data.registry import PROMPT_SETS

FILES = {
    half: PublicFile(
        f"jailbreakbench/{half}-behaviors.csv",
        "a CSV file with Index, Goal, Target, Behavior, Category and Source",
        "https://huggingface.co/datasets/JailbreakBench/JBB-Behaviors/tree/main/data",
        HubFile("JailbreakBench/JBB-Behaviors", f"data/{half}-behaviors.csv", "886acc352a31533ffbcf4ef22c744658688086fc"),
    )
    for half in ("harmful", "benign")
}


@PROMPT_SETS.register("jailbreakbench")
def jailbreakbench(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the harmful goals, and the benign ones as look-alikes of those with their `Index`; `topic` is the category."""
    index: dict[str, str] = {}

    def goal(row: dict[str, str]) -> list[Picked]:
        index[row["Goal"].strip()] = row["Index"]
        return [Picked(row["Goal"], row["Category"])]

    harmful = prompt_rows("jailbreakbench", "harmful", read_prompts(FILES["harmful"], data_dir, goal))
    twins = {index[row.prompt]: row.id for row in harmful}
    benign = prompt_rows("jailbreakbench", "look_alike", read_prompts(FILES["benign"], data_dir, goal))
    return harmful + [replace(row, look_alike_of=twins.get(index[row.prompt])) for row in benign]
