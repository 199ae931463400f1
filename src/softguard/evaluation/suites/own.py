"""Our own test split, of topics that training has not seen: harmful prompts, look-alikes that share their words, benign ones."""

from pathlib import Path

from softguard.data import PromptRow, load_prompts
from softguard.evaluation.suites.suite import SUITES, Suite


def _test_rows(data_dir: Path | None) -> list[PromptRow]:
    return [r for name in ("softguard", "softguard_tasks") for r in load_prompts(name, data_dir) if r.split == "test"]


def _topic(row: PromptRow) -> str:
    return row.topic


OWN = SUITES.register("softguard")(
    Suite(
        title="softguard test split",
        source="ours, in the package (data/prompts)",
        licence="Apache-2.0",
        size=582,
        metric="AUC of the refusal log-odds, refusal, over-refusal; families are topics, which twins share",
        load=_test_rows,
        groups=("safety", "over-refusal"),
        family=_topic,
    )
)
