"""HarmBench, standard and contextual behaviours of the test split."""

from softguard.data.harmbench import harmbench
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
