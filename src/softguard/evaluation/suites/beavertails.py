"""BeaverTails: questions with safe answers, the paper's measure of over-refusal; and those with harmful ones.

Of the training split, as we have it; and of the test split of its authors, which no run of ours has seen.
"""

from softguard.data.beavertails import beavertails_bad, beavertails_good
from softguard.data.beavertails_test import beavertails_test, beavertails_test_safe
from softguard.evaluation.suites.suite import SUITES, Suite

_SOURCE = "Ji et al. 2023, arXiv 2307.04657; huggingface.co/datasets/PKU-Alignment/BeaverTails"
_TRAINED = "a run whose data.sets has a beavertails set has trained on these very prompts"

BEAVERTAILS_SAFE = SUITES.register("beavertails_safe")(
    Suite(
        title="BeaverTails, questions with safe answers",
        source=_SOURCE,
        licence="CC BY-NC 4.0",
        size=3835,
        metric="over-refusal by pattern on 2,000 of them (Alfarra et al. 2026, section 4); a harmful question that got a safe "
        "answer is among them, so that 0 is not the best value",
        load=beavertails_good,
        groups=("over-refusal",),
        seen_in_training=_TRAINED,
    )
)

BEAVERTAILS_UNSAFE = SUITES.register("beavertails_unsafe")(
    Suite(
        title="BeaverTails, questions with harmful answers",
        source=_SOURCE,
        licence="CC BY-NC 4.0",
        size=4704,
        metric="share of answers that a judge calls safe (SGS in Alfarra et al. 2026); not the test split of its authors",
        load=beavertails_bad,
        groups=("safety",),
        seen_in_training=_TRAINED,
    )
)

_TEST = "of the 3,021 pairs of the test split, each question once"

BEAVERTAILS_TEST = SUITES.register("beavertails_test")(
    Suite(
        title="BeaverTails test, questions with a harmful answer",
        source=_SOURCE,
        licence="CC BY-NC 4.0",
        size=3021,
        metric=f"share of safe answers by their moderation model (SGS on 1,000 in Alfarra et al. 2026); {_TEST}",
        load=beavertails_test,
        groups=("safety",),
    )
)

BEAVERTAILS_TEST_SAFE = SUITES.register("beavertails_test_safe")(
    Suite(
        title="BeaverTails test, questions with safe answers alone",
        source=_SOURCE,
        licence="CC BY-NC 4.0",
        size=3021,
        metric=f"none of its authors' for refusals; ours: over-refusal by patterns, where 0 is not the best value; {_TEST}",
        load=beavertails_test_safe,
        groups=("over-refusal",),
    )
)
