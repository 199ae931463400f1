"""CoCoNot's contrast set: requests to be answered, each near one that is not."""

from softguard.data.coconot import coconot_contrast
from softguard.evaluation.suites.suite import SUITES, Suite

COCONOT_CONTRAST = SUITES.register("coconot_contrast")(
    Suite(
        title="CoCoNot, contrast",
        source="Brahman et al. 2024, arXiv 2407.12043; github.com/allenai/noncompliance",
        licence="MIT",
        size=379,
        metric="share complied with, by GPT-3.5 and a rubric; ours: full and partial refusal by patterns",
        load=coconot_contrast,
        groups=("over-refusal",),
    )
)
