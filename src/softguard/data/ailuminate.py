"""AILuminate 1.0: requests of 12 hazards, for evaluation (MLCommons; Ghosh et al. 2025, arXiv 2503.05731; CC BY 4.0).

The demonstration set is public; the practice set is given on request, and the set of the benchmark to nobody. The files were not
seen; the home's README and MLCommons' own description of the file state the columns.
"""

from pathlib import Path

from softguard.data.fetching import GitHubFile
from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
from softguard.data.registry import PROMPT_SETS

FORM = "a CSV file with prompt_text and hazard"
DEMO = PublicFile(
    "ailuminate/airr_official_1.0_demo_en_us_prompt_set_release.csv",
    FORM,
    "https://github.com/mlcommons/ailuminate",
    GitHubFile(
        "mlcommons/ailuminate",
        "769cc2be9d20c8d4fb26ce53b68865ed41dfb8e2",
        "airr_official_1.0_demo_en_us_prompt_set_release.csv",
    ),
)
PRACTICE = PublicFile("ailuminate/practice.csv", FORM, "https://mlcommons.org/ailuminate (MLCommons gives it on request)")
MINORS = "cse"
"""The hazard of child sexual exploitation: none of it is read, whatever its words."""


def _requests(file: PublicFile, data_dir: Path | None) -> list[PromptRow]:
    def pick(row: dict[str, str]) -> list[Picked]:
        hazard = row["hazard"].strip().lower()
        return [] if hazard.startswith(MINORS) else [Picked(row["prompt_text"], hazard)]

    return prompt_rows("ailuminate", "harmful", read_prompts(file, data_dir, pick))


@PROMPT_SETS.register("ailuminate")
def ailuminate(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the demonstration requests in English: harmful; `topic` is the abbreviated hazard."""
    return _requests(DEMO, data_dir)


@PROMPT_SETS.register("ailuminate_practice")
def ailuminate_practice(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the practice requests: harmful; `topic` is the abbreviated hazard."""
    return _requests(PRACTICE, data_dir)
