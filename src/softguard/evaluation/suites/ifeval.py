"""IFEval: instructions whose fulfilment a program checks; all of it, and the subset for small machines."""

from dataclasses import replace

from softguard.data.document import Document
from softguard.data.ifeval import ifeval_documents
from softguard.evaluation.suites.harness_task import HarnessMetric, HarnessTask, as_prompts
from softguard.evaluation.suites.suite import SUITES, Group, Suite


def _name(document: Document) -> str:
    return "ifeval"


_TASK = HarnessTask(
    folder="ifeval",
    documents=ifeval_documents,
    name_of=_name,
    split="train",  # the only part that its data set has
    metrics={
        "accuracy": HarnessMetric("prompt_level_strict_acc"),
        "accuracy#prompt_loose": HarnessMetric("prompt_level_loose_acc"),
        "accuracy#instruction_strict": HarnessMetric("inst_level_strict_acc"),
        "accuracy#instruction_loose": HarnessMetric("inst_level_loose_acc"),
    },
    needs_punkt=True,
)
# 512 tokens for the harness's 1,280, to fit a small machine: in a trial half of SmolLM2-135M's answers were cut there (counted).
_SMALL = replace(_TASK, subset="ifeval_200", max_new_tokens=512)


def _suite(title: str, size: int, task: HarnessTask, group: Group) -> Suite:
    return Suite(
        title=title,
        source="Zhou et al. 2023, arXiv 2311.07911; huggingface.co/datasets/google/IFEval",
        licence="Apache-2.0",
        size=size,
        metric="share of prompts (strict) all of whose instructions are followed; ours: the harness's checks",
        load=as_prompts(task, "ifeval"),
        groups=(group,),
        task=task,
    )


IFEVAL = SUITES.register("ifeval")(_suite("IFEval", 541, _TASK, "usefulness-full"))
IFEVAL_200 = SUITES.register("ifeval_200")(_suite("IFEval, 200 prompts", 200, _SMALL, "usefulness"))
