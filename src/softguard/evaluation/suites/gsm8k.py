"""GSM8K: school sums in words, solved after five worked examples; all of it, and the subset for small machines."""

from dataclasses import replace

from softguard.data.document import Document
from softguard.data.gsm8k import gsm8k_documents, gsm8k_shots
from softguard.evaluation.suites.harness_task import HarnessMetric, HarnessTask, as_prompts
from softguard.evaluation.suites.suite import SUITES, Group, Suite


def _name(document: Document) -> str:
    return "gsm8k"


_TASK = HarnessTask(
    folder="gsm8k",
    documents=gsm8k_documents,
    shots=gsm8k_shots,
    shots_split="train",
    name_of=_name,
    # The same five examples for all, where the harness draws five for each question: one is then asked alike in every subset and
    # with every copy of the training questions, and what all prompts begin with is run once.
    settings={"fewshot_config": {"sampler": "first_n"}},
    metrics={
        "accuracy": HarnessMetric("exact_match", "strict-match"),
        "accuracy#flexible": HarnessMetric("exact_match", "flexible-extract"),
    },
    gold="text",
)


def _suite(title: str, size: int, task: HarnessTask, group: Group) -> Suite:
    return Suite(
        title=title,
        source="Cobbe et al. 2021, arXiv 2110.14168; github.com/openai/grade-school-math",
        licence="MIT",
        size=size,
        metric="share of right final numbers; ours: after #### (strict) or the last number (flexible), five examples",
        load=as_prompts(task, "gsm8k"),
        groups=(group,),
        task=task,
    )


GSM8K = SUITES.register("gsm8k")(_suite("GSM8K", 1319, _TASK, "usefulness-full"))
GSM8K_200 = SUITES.register("gsm8k_200")(_suite("GSM8K, 200 questions", 200, replace(_TASK, subset="gsm8k_200"), "usefulness"))
