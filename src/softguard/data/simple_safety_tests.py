"""SimpleSafetyTests: what hardly any model should answer, for evaluation (Vidgen et al. 2023, arXiv 2311.08370; CC BY-NC 4.0).

Its homes disagree on the licence (the hub's card says CC BY 2.0): the strictest is named. The file was not seen; its readers
state the columns of both copies. A fifth of it is about minors and is dropped.
"""

from pathlib import Path

from softguard.data.fetching import HubFile
from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
from softguard.data.registry import PROMPT_SETS

FILE = PublicFile(
    "simple_safety_tests/sst_test_cases.csv",
    "a CSV file with harm_area and prompt (GitHub's copy: prompts_final)",
    "https://huggingface.co/datasets/Bertievidgen/SimpleSafetyTests",
    HubFile("Bertievidgen/SimpleSafetyTests", "sst_test_cases.csv", "98223c5d8c4059c8f4d8fe2fec8720ee8a20d3c5"),
)


def _case(row: dict[str, str]) -> list[Picked]:
    return [Picked(row["prompt"] if "prompt" in row else row["prompts_final"], row["harm_area"])]


@PROMPT_SETS.register("simple_safety_tests")
def simple_safety_tests(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the cases: harmful; `topic` is the area of harm."""
    return prompt_rows("simple_safety_tests", "harmful", read_prompts(FILE, data_dir, _case))
