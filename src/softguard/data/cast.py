"""IBM CAST: commands in pairs, for training (Lee et al. 2024, arXiv 2409.05907; Apache-2.0)."""

from pathlib import Path

from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
from softguard.data.registry import PROMPT_SETS

FILE = PublicFile(
    "ibm_cast_harmful/condition_harmful_train.json",
    "a JSON list of objects with harmful and harmless, or such a list under train",
    "https://github.com/IBM/activation-steering (docs/demo-data/condition_harmful.json)",
)


@PROMPT_SETS.register("cast")
def cast(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the harmful commands and the harmless ones."""
    harmful = read_prompts(FILE, data_dir, lambda row: [Picked(pair["harmful"]) for pair in row.get("train", [row])])
    harmless = read_prompts(FILE, data_dir, lambda row: [Picked(pair["harmless"]) for pair in row.get("train", [row])])
    return prompt_rows("cast", "harmful", harmful, "train") + prompt_rows("cast", "benign", harmless, "train")
