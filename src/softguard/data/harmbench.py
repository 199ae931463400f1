"""HarmBench: behaviours to elicit, for evaluation (Mazeika et al. 2024, arXiv 2402.04249; MIT)."""

from pathlib import Path

from softguard.data.fetching import GitHubFile
from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
from softguard.data.registry import PROMPT_SETS

FILES = {
    split: PublicFile(
        f"harmbench/harmbench_behaviors_text_{name}.csv",
        "a CSV file with Behavior, FunctionalCategory, SemanticCategory and ContextString",
        "https://github.com/centerforaisafety/HarmBench/tree/main/data/behavior_datasets",
        GitHubFile(
            "centerforaisafety/HarmBench",
            "8e1604d1171fe8a48d8febecd22f600e462bdcdd",
            f"data/behavior_datasets/harmbench_behaviors_text_{name}.csv",
        ),
    )
    for split, name in (("test", "test"), ("validation", "val"), ("all", "all"))
}


def _behaviour(row: dict[str, str]) -> list[Picked]:
    if row["FunctionalCategory"] == "copyright":
        return []
    context = f"{row['ContextString']}\n\n---\n\n" if row["ContextString"] else ""
    return [Picked(context + row["Behavior"], row["SemanticCategory"])]


@PROMPT_SETS.register("harmbench")
def harmbench(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the standard and contextual test behaviours, a context above its behaviour as in HarmBench's direct request.

    Copyright behaviours are left out: reciting a song is judged by comparison with its text, not by harm.
    """
    return prompt_rows("harmbench", "harmful", read_prompts(FILES["test"], data_dir, _behaviour))


@PROMPT_SETS.register("harmbench_val")
def harmbench_val(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the validation behaviours in the same form."""
    picked = read_prompts(FILES["validation"], data_dir, _behaviour)
    return prompt_rows("harmbench_val", "harmful", picked, "validation")


@PROMPT_SETS.register("harmbench_standard")
def harmbench_standard(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the standard behaviours of both splits, which is what most papers call HarmBench: no context, no copyright."""
    found = read_prompts(FILES["all"], data_dir, lambda row: _behaviour(row) if row["FunctionalCategory"] == "standard" else [])
    return prompt_rows("harmbench_standard", "harmful", found)
