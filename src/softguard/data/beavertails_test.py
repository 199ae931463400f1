"""BeaverTails' test split: questions by whether any answer to them was judged harmful, for evaluation (Ji et al. 2023; CC BY-NC).

The file was not seen; its readers state name, commit and the fields prompt, category and is_safe, which is of the answer.
"""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from softguard.data.fetching import HubFile
from softguard.data.prompt import PromptRow
from softguard.data.public import Picked, PublicFile, prompt_rows, read_rows
from softguard.data.registry import PROMPT_SETS

FILE = PublicFile(
    "beavertails_test/test.jsonl.gz",
    "JSON lines with prompt, category and is_safe",
    "https://huggingface.co/datasets/PKU-Alignment/BeaverTails/tree/main/round0/30k",
    HubFile("PKU-Alignment/BeaverTails", "round0/30k/test.jsonl.gz", "8401fe609d288129cc684a9b3be6a93e41cfe678"),
)


class _Pair(NamedTuple):
    prompt: str
    categories: tuple[str, ...]
    safe: bool


def _pair(row: dict[str, Any]) -> list[_Pair]:
    prompt, categories = row["prompt"].strip(), tuple(name for name, holds in row["category"].items() if holds)
    (prompt + "".join(categories)).encode()  # raises on what is no text
    return [_Pair(prompt, categories, bool(row["is_safe"]))]


def _questions(data_dir: Path | None, *, safe: bool) -> list[Picked]:
    """Return each question once with the commonest category of its answers; none of which an answer was about minors."""
    by: dict[str, list[_Pair]] = {}
    for pair in read_rows(FILE, data_dir, _pair):
        by.setdefault(pair.prompt, []).append(pair)
    out = []
    for prompt, pairs in by.items():
        counts = Counter(c for p in pairs for c in p.categories)
        if all(p.safe for p in pairs) == safe and "child_abuse" not in counts:
            out.append(Picked(prompt, max(counts, key=lambda c: counts[c], default="")))
    return out


@PROMPT_SETS.register("beavertails_test")
def beavertails_test(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the questions that got a harmful answer, as harmful; `topic` is the category of harm."""
    return prompt_rows("beavertails_test", "harmful", _questions(data_dir, safe=False))


@PROMPT_SETS.register("beavertails_test_safe")
def beavertails_test_safe(data_dir: Path | None = None) -> list[PromptRow]:
    """Return the questions all of whose answers were safe, as benign; a harmful one that was answered with care is among them."""
    return prompt_rows("beavertails_test_safe", "benign", _questions(data_dir, safe=True))
