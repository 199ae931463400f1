"""What a suite is that lm-evaluation-harness grades: which of its tasks, on which data, read by which of its metrics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from softguard.data import PromptRow
from softguard.data.document import Document, subset

Load = Callable[[Path | None], list[Document]]


class HarnessMetric(NamedTuple):
    """A metric of the harness, under one of its filters of the answer."""

    name: str
    filter: str = "none"


@dataclass(frozen=True)
class HarnessTask:
    """Prompts, filters and metrics are the harness's own, from the files that it ships; only its data are replaced by ours.

    Attributes:
        folder: under the harness's `tasks`, where the task's files are.
        documents: gives the questions.
        metrics: ours by name, each with the harness's; the first is the headline.
        name_of: the harness's name for the task that a question belongs to.
        split: the harness's name for the part of its data set that is asked.
        shots: gives the questions that may be shown with their answers; None where the task shows none.
        shots_split: the harness's name for that part.
        settings: fields of the harness's task file that we set otherwise, each with its reason where it is set.
        gold: what the log-likelihood of the right answer is of: the right one of the choices, the worked answer, or nothing
            where no answer is the right one.
        subset: name of a fixed subset; empty takes all.
        max_new_tokens: longest answer; 0 takes the harness's own.
        needs_punkt: whether the checks split sentences with nltk's data.
    """

    folder: str
    documents: Load
    metrics: Mapping[str, HarnessMetric]
    name_of: Callable[[Document], str]
    split: str = "test"
    shots: Load | None = None
    shots_split: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    gold: Literal["choice", "text", "none"] = "none"
    subset: str = ""
    max_new_tokens: int = 0
    needs_punkt: bool = False

    def chosen(self, data_dir: Path | None) -> list[Document]:
        """Return the questions, or those of the subset."""
        rows = self.documents(data_dir)
        return subset(self.subset, rows) if self.subset else rows


def as_prompts(task: HarnessTask, source: str) -> Callable[[Path | None], list[PromptRow]]:
    """Return what gives a task's questions as the benign prompts that they are, for whoever wants the words alone."""

    def load(data_dir: Path | None) -> list[PromptRow]:
        words = ("prompt", "question")
        return [
            PromptRow(d.id, next(str(d.fields[w]) for w in words if w in d.fields), "benign", source, topic=d.topic)
            for d in task.chosen(data_dir)
        ]

    return load
