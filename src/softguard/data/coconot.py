"""CoCoNot's contrast set: requests to be answered, each near one that is not (Brahman et al. 2024, arXiv 2407.12043; MIT).

Format seen in data/ of https://github.com/allenai/noncompliance/tree/4d14720d847c14ec3f6336a433b1538227e62103
"""

from pathlib import Path

from softguard.data.fetching import GitHubFile
from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
from softguard.data.registry import PROMPT_SETS

FILE = PublicFile(
    "coconot/coconot_contrast_eval.jsonl",
    "JSON lines with id, category, subcategory and prompt",
    "https://github.com/allenai/noncompliance/tree/main/data",
    GitHubFile("allenai/noncompliance", "4d14720d847c14ec3f6336a433b1538227e62103", "data/coconot_contrast_eval.jsonl"),
)


@PROMPT_SETS.register("coconot_contrast")
def coconot_contrast(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the requests: look-alikes; `topic` is the category of what they are near."""
    found = read_prompts(FILE, data_dir, lambda row: [Picked(row["prompt"], row["category"])])
    return prompt_rows("coconot_contrast", "look_alike", found)
