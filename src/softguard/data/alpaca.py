"""Alpaca: everyday instructions, for evaluation alone (tatsu-lab; CC BY-NC).

The home's file, which has inputs too, was not seen: a reader states commit and name, its README the fields. Its last 2,000 are
not those of a folder that holds a part of it.
"""

from pathlib import Path

from softguard.data.fetching import GitHubFile
from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
from softguard.data.registry import PROMPT_SETS

HELD_OUT = 2000
FILE = PublicFile(
    "alpaca/alpaca_instructions_no_input.json",
    "a JSON list of objects with an instruction",
    "https://github.com/tatsu-lab/stanford_alpaca",
    GitHubFile("tatsu-lab/stanford_alpaca", "761dc5bfbdeeffa89b8bff5d038781a4055f796a", "alpaca_data.json"),
)


@PROMPT_SETS.register("alpaca_heldout")
def alpaca_heldout(data_dir: Path | None = None) -> list[PromptRow]:
    """Return those of the last 2,000 instructions without input that are not about minors: benign."""
    found = read_prompts(FILE, data_dir, lambda row: [] if row.get("input") else [Picked(row["instruction"])])
    return prompt_rows("alpaca", "benign", found[-HELD_OUT:])
