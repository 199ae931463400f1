"""BeaverTails: questions by whether an answer to them was judged harmful, for training (Ji et al. 2023; CC BY-NC).

The good half is not all benign: a harmful question that got a safe answer is in it. Both halves lose the rows about minors.
"""

from pathlib import Path

from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
from softguard.data.registry import PROMPT_SETS


def _file(half: str) -> PublicFile:
    return PublicFile(
        f"beavertails_prompts/BeaverTails{half}.jsonl",
        "JSON lines with messages, one of them the user's (to be made of the pairs of its home)",
        "https://huggingface.co/datasets/PKU-Alignment/BeaverTails",
    )


def _user_turns(row: dict[str, list[dict[str, str]]]) -> list[Picked]:
    return [Picked(m["content"]) for m in row["messages"] if m["role"] == "user"]


@PROMPT_SETS.register("beavertails_bad")
def beavertails_bad(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the questions with harmful answers, as harmful."""
    return prompt_rows("beavertails", "harmful", read_prompts(_file("Bad"), data_dir, _user_turns), "train")


@PROMPT_SETS.register("beavertails_good")
def beavertails_good(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the questions with safe answers, as benign."""
    found = read_prompts(_file("Good"), data_dir, _user_turns)
    return prompt_rows("beavertails", "benign", found, "train")
