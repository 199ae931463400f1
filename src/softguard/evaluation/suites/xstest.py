"""XSTest: safe prompts that sound unsafe, and their unsafe contrasts."""

from softguard.data import PromptRow
from softguard.data.xstest import xstest
from softguard.evaluation.suites.suite import SUITES, Suite


def _kind(row: PromptRow) -> str:
    return row.topic.removeprefix("contrast_")


XSTEST = SUITES.register("xstest")(
    Suite(
        title="XSTest",
        source="Röttger et al. 2024, arXiv 2308.01263; huggingface.co/datasets/Paul/XSTest",
        licence="CC BY 4.0",
        size=450,
        metric="full refusal, partial refusal and compliance by hand or GPT-4; ours: by patterns, families are its types",
        load=xstest,
        groups=("over-refusal",),
        family=_kind,
    )
)
