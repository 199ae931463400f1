"""IBM CAST's harmful commands, for training (Lee et al. 2024, arXiv 2409.05907; Apache-2.0).

Its harmless ones are left out: about a quarter of them are Alpaca's, word for word, and Alpaca is CC BY-NC (and our test set).
"""

from pathlib import Path

from softguard.data.fetching import GitHubFile
from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
from softguard.data.registry import PROMPT_SETS

FILE = PublicFile(
    "ibm_cast_harmful/condition_harmful_train.json",
    "a JSON list of objects with harmful and harmless, or such a list under train",
    "https://github.com/IBM/activation-steering (docs/demo-data/condition_harmful.json)",
    GitHubFile("IBM/activation-steering", "8a4a68f34e4208554178e54a329332e909921bb7", "docs/demo-data/condition_harmful.json"),
)


@PROMPT_SETS.register("cast")
def cast(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the harmful commands."""
    harmful = read_prompts(FILE, data_dir, lambda row: [Picked(pair["harmful"]) for pair in row.get("train", [row])])
    return prompt_rows("cast", "harmful", harmful, "train")
