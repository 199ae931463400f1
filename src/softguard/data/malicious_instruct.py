"""MaliciousInstruct: 100 questions in ten kinds, for evaluation (Huang et al. 2023, arXiv 2310.06987; no licence stated)."""

from pathlib import Path

from softguard.data.fetching import GitHubFile
from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
from softguard.data.registry import PROMPT_SETS

FILE = PublicFile(
    "malicious_instruct/MaliciousInstruct.txt",
    "a text file with a question a line",
    "https://github.com/Princeton-SysML/Jailbreak_LLM/tree/main/data",
    GitHubFile("Princeton-SysML/Jailbreak_LLM", "aef132f893dc9880ffeb4818e77d5fc92fee3af6", "data/MaliciousInstruct.txt"),
)


@PROMPT_SETS.register("malicious_instruct")
def malicious_instruct(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the questions: harmful."""
    return prompt_rows("malicious_instruct", "harmful", read_prompts(FILE, data_dir, lambda line: [Picked(line)]))
