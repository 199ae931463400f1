"""OR-Bench: requests that models refuse though they are safe, and toxic ones (Cui et al. 2025, arXiv 2405.20947; CC BY 4.0).

Columns and counts are as its card and a reader state them for this commit; the files were not seen. Of the 80,000 safe ones only
the 1,319 that the strongest models refused are here.
"""

from pathlib import Path

from softguard.data.fetching import HubFile
from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
from softguard.data.registry import PROMPT_SETS

FILES = {
    part: PublicFile(
        f"or_bench/or-bench-{part}.csv",
        "a CSV file with prompt and category",
        "https://huggingface.co/datasets/bench-llm/or-bench",
        HubFile("bench-llm/or-bench", f"or-bench-{part}.csv", "e36d8b80e81837c8a8f264bbb2a49f1b32c7e272"),
    )
    for part in ("hard-1k", "toxic")
}


@PROMPT_SETS.register("or_bench")
def or_bench(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the hard safe requests as look-alikes, the toxic ones as harmful; `topic` is the category."""

    def requests(part: str) -> list[Picked]:
        return read_prompts(FILES[part], data_dir, lambda row: [Picked(row["prompt"], row["category"])])

    return prompt_rows("or_bench", "look_alike", requests("hard-1k")) + prompt_rows("or_bench", "harmful", requests("toxic"))
