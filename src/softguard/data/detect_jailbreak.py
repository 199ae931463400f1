"""Detect-Jailbreak: prompts that people wrote to get round a model's rules, for evaluation (Guardrails AI; MIT).

The file was not seen; a reader of it states the name and the columns prompt, is_jailbreak and tags. It gathers other sets, whose
licences are their own.
"""

import hashlib
from pathlib import Path
from typing import Any

from softguard.data.fetching import HubFile
from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
from softguard.data.registry import PROMPT_SETS

KEPT = 500
FILE = PublicFile(
    "detect_jailbreak/dataset.parquet",
    "a Parquet file with prompt and is_jailbreak",
    "https://huggingface.co/datasets/GuardrailsAI/detect-jailbreak",
    HubFile("GuardrailsAI/detect-jailbreak", "dataset.parquet"),
)


def _jailbreak(row: dict[str, Any]) -> list[Picked]:
    return [Picked(row["prompt"])] if row["is_jailbreak"] else []


@PROMPT_SETS.register("detect_jailbreak")
def detect_jailbreak(data_dir: Path | None = None) -> list[PromptRow]:
    """Return 500 of the jailbreaks, as many as the paper takes: harmful.

    Which 500 the paper took is not said; ours have the smallest hashes, the same ones whatever the order of the file.
    """
    rows = prompt_rows("detect_jailbreak", "harmful", read_prompts(FILE, data_dir, _jailbreak))
    return sorted(rows, key=lambda r: hashlib.sha256(r.prompt.encode()).digest())[:KEPT]
