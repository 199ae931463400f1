"""StrongREJECT: requests that a jailbreak has to get answered, for evaluation (Souly et al. 2024, arXiv 2402.10260; MIT).

The file was not seen; header and count are as others state them who checked this commit by hash.
"""

from pathlib import Path

from softguard.data.fetching import GitHubFile
from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
from softguard.data.registry import PROMPT_SETS

FILE = PublicFile(
    "strongreject/strongreject_dataset.csv",
    "a CSV file with category, source and forbidden_prompt",
    "https://github.com/alexandrasouly/strongreject/tree/main/strongreject_dataset",
    GitHubFile(
        "alexandrasouly/strongreject",
        "f7cad6c17e624e21d8df2278e918ae1dddb4cb56",
        "strongreject_dataset/strongreject_dataset.csv",
    ),
)


@PROMPT_SETS.register("strongreject")
def strongreject(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the requests: harmful; `topic` is the category."""
    found = read_prompts(FILE, data_dir, lambda row: [Picked(row["forbidden_prompt"], row["category"])])
    return prompt_rows("strongreject", "harmful", found)
