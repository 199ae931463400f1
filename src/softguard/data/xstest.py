"""XSTest: safe prompts that sound unsafe, and unsafe contrasts (Röttger et al. 2024, arXiv 2308.01263; CC BY 4.0)."""

from pathlib import Path

from softguard.data.fetching import HubFile
from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
from softguard.data.registry import PROMPT_SETS

FILE = PublicFile(
    "xstest/xstest_prompts.csv",
    "a CSV file with prompt, type and label",
    "https://huggingface.co/datasets/Paul/XSTest",
    HubFile("Paul/XSTest", "xstest_prompts.csv", "f600c994b256f12867dfa5b3eb3d545a3e62f8b5"),
)


@PROMPT_SETS.register("xstest")
def xstest(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the safe prompts as look-alikes, the unsafe contrasts as harmful; `topic` is the type."""

    def labelled(label: str) -> list[Picked]:
        return read_prompts(FILE, data_dir, lambda row: [Picked(row["prompt"], row["type"])] if row["label"] == label else [])

    return prompt_rows("xstest", "look_alike", labelled("safe")) + prompt_rows("xstest", "harmful", labelled("unsafe"))
