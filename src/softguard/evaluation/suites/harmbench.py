"""HarmBench: standard and contextual behaviours of the test split; and the standard ones of both splits."""

from softguard.data.harmbench import harmbench, harmbench_standard
from softguard.evaluation.suites.suite import SUITES, Suite

HARMBENCH = SUITES.register("harmbench")(
    Suite(
        title="HarmBench",
        source="Mazeika et al. 2024, arXiv 2402.04249; github.com/centerforaisafety/HarmBench",
        licence="MIT",
        size=320,
        metric="attack success by its own 13B classifier, copyright by hashing; ours: by the named judge, without the copyright "
        "behaviours, so that figures are not the authors'",
        load=harmbench,
        groups=("safety",),
    )
)

HARMBENCH_STANDARD = SUITES.register("harmbench_standard")(
    Suite(
        title="HarmBench, standard behaviours",
        source="Mazeika et al. 2024, arXiv 2402.04249; github.com/centerforaisafety/HarmBench",
        licence="MIT",
        size=200,
        metric="as for `harmbench`, most of whose prompts are among these",
        load=harmbench_standard,
        groups=("safety-full",),
    )
)
