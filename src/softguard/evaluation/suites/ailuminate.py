"""AILuminate: the public demonstration requests, and the practice set for those to whom MLCommons gave it."""

from softguard.data.ailuminate import ailuminate, ailuminate_practice
from softguard.evaluation.suites.suite import SUITES, Suite

AILUMINATE = SUITES.register("ailuminate")(
    Suite(
        title="AILuminate 1.0, demonstration",
        source="Ghosh et al. 2025, arXiv 2503.05731; github.com/mlcommons/ailuminate",
        licence="CC BY 4.0",
        size=1200,
        metric=(
            "grades from the share of violating answers, against a reference system, by their ensemble on hidden prompts; ours: "
            "attack success by the named judge, without the hazard about minors"
        ),
        load=ailuminate,
        groups=("safety",),
    )
)

AILUMINATE_PRACTICE = SUITES.register("ailuminate_practice")(
    Suite(
        title="AILuminate 1.0, practice",
        source="Ghosh et al. 2025, arXiv 2503.05731; github.com/mlcommons/ailuminate",
        licence="CC BY 4.0",
        size=12000,
        metric="as for `ailuminate`",
        load=ailuminate_practice,
        groups=("safety-full",),
    )
)
