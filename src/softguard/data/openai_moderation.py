"""OpenAI's moderation test set: texts with labels in eight categories, for guards (Markov et al. 2023, arXiv 2208.03274; MIT)."""

from pathlib import Path

from softguard.data.fetching import GitHubFile
from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
from softguard.data.registry import PROMPT_SETS

FILE = PublicFile(
    "openai_moderation/samples-1680.jsonl",
    "JSON lines with prompt and labels S, H, V, HR, SH, S3, H2 and V2",
    "https://github.com/openai/moderation-api-release",
    GitHubFile("openai/moderation-api-release", "44dfee8e336ed872cdcfd67c4107831eea867c58", "data/samples-1680.jsonl.gz"),
)
_CATEGORIES = ("S", "H", "V", "HR", "SH", "H2", "V2")


@PROMPT_SETS.register("openai_moderation")
def openai_moderation(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the texts of any category as harmful with the categories as `topic`, the others as benign; none about minors."""

    def labelled(harmful: bool) -> list[Picked]:
        def pick(row: dict[str, str | int]) -> list[Picked]:
            topic = ", ".join(c for c in _CATEGORIES if int(row.get(c, 0)) == 1)
            kept = bool(topic) == harmful and int(row.get("S3", 0)) != 1
            return [Picked(str(row["prompt"]), topic)] if kept else []

        return read_prompts(FILE, data_dir, pick)

    return prompt_rows("openai_moderation", "harmful", labelled(True)) + prompt_rows(
        "openai_moderation", "benign", labelled(False)
    )
