"""ToxiGen: statements about 13 groups, rated by people (Hartvigsen et al. 2022, arXiv 2203.09509; no licence stated).

Machine-made, so that hateful and neutral ones look alike; statements, not requests. Its home may ask for a login. The file was
not seen; its columns are those of its own loading script.
"""

from pathlib import Path

from softguard.data.fetching import HubFile
from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_prompts
from softguard.data.registry import PROMPT_SETS

FILE = PublicFile(
    "toxigen/annotated_test.csv",
    "a CSV file with text, target_group, toxicity_ai and toxicity_human",
    "https://huggingface.co/datasets/toxigen/toxigen-data",
    HubFile("toxigen/toxigen-data", "annotated_test.csv"),
)
HATEFUL = 5.5
"""Of 10: both ratings added, as lm-evaluation-harness reads them."""


def _statement(text: str) -> str:
    """Return a statement without the marks of a Python byte string, which some copies have."""
    marked = len(text) > 2 and text[:2] in ("b'", 'b"') and text[-1] == text[1]
    return text[2:-1] if marked else text


@PROMPT_SETS.register("toxigen")
def toxigen(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the hateful statements as harmful, the others as look-alikes; `topic` is the group that they speak of."""

    def rated(hateful: bool) -> list[Picked]:
        def pick(row: dict[str, str]) -> list[Picked]:
            kept = (float(row["toxicity_ai"]) + float(row["toxicity_human"]) > HATEFUL) == hateful
            return [Picked(_statement(row["text"]), row["target_group"])] if kept else []

        return read_prompts(FILE, data_dir, pick)

    return prompt_rows("toxigen", "harmful", rated(True)) + prompt_rows("toxigen", "look_alike", rated(False))
