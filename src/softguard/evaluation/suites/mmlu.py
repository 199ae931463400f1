"""MMLU: multiple-choice questions of 57 subjects, asked without examples; all of it, and the subset for small machines."""

from dataclasses import replace

from softguard.data.document import Document
from softguard.data.mmlu import mmlu_documents
from softguard.evaluation.suites.harness_task import HarnessMetric, HarnessTask, as_prompts
from softguard.evaluation.suites.suite import SUITES, Group, Suite


def _name(document: Document) -> str:
    return f"mmlu_{document.topic}"


_TASK = HarnessTask(
    folder="mmlu/default",
    documents=mmlu_documents,
    name_of=_name,
    # As many examples as the harness shows unless asked: none. Then there is no part of the data to take them from.
    settings={"num_fewshot": 0, "fewshot_split": None, "fewshot_config": None},
    metrics={"accuracy": HarnessMetric("acc")},
    gold="choice",
)


def _suite(title: str, size: int, task: HarnessTask, group: Group) -> Suite:
    return Suite(
        title=title,
        source="Hendrycks et al. 2021, arXiv 2009.03300; huggingface.co/datasets/cais/mmlu",
        licence="MIT",
        size=size,
        metric="share of right letters, five examples; ours: the likeliest letter, no examples, the mean over questions",
        load=as_prompts(task, "mmlu"),
        groups=(group,),
        task=task,
    )


MMLU = SUITES.register("mmlu")(_suite("MMLU", 14042, _TASK, "usefulness-full"))
MMLU_500 = SUITES.register("mmlu_500")(_suite("MMLU, 500 questions", 500, replace(_TASK, subset="mmlu_500"), "usefulness"))
