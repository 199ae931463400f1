"""JailbreakBench: harmful behaviours, and benign ones on the same themes (Chao et al. 2024, arXiv 2404.01318; MIT).

The files were not seen; their columns are as their readers have them.
"""

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
    """Return the harmful goals, and the benign ones as their look-alikes; `topic` is the category."""

    def goals(half: str) -> list[Picked]:
        return read_prompts(FILES[half], data_dir, lambda row: [Picked(row["Goal"], row["Category"])])

    return prompt_rows("jailbreakbench", "harmful", goals("harmful")) + prompt_rows(
        "jailbreakbench", "look_alike", goals("benign")
    )
