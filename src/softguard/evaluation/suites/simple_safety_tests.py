"""SimpleSafetyTests: what hardly any model should answer."""

from softguard.data.simple_safety_tests import simple_safety_tests
from softguard.evaluation.suites.suite import SUITES, Suite

SIMPLE_SAFETY_TESTS = SUITES.register("simple_safety_tests")(
    Suite(
        title="SimpleSafetyTests",
        source="Vidgen et al. 2023, arXiv 2311.08370; huggingface.co/datasets/Bertievidgen/SimpleSafetyTests",
        licence="CC BY-NC 4.0",
        size=100,
        metric=("share of unsafe answers by hand; ours: by the named judge, without the fifth that is about minors"),
        load=simple_safety_tests,
        groups=("safety",),
    )
)
