"""OKTest: safe questions around words that alarm."""

from softguard.data.oktest import oktest
from softguard.evaluation.suites.suite import SUITES, Suite

OKTEST = SUITES.register("oktest")(
    Suite(
        title="OKTest",
        source="Shi et al. 2024, arXiv 2401.17633; github.com/InvokerStark/OverKill",
        licence="no licence stated",
        size=300,
        metric="share refused, by keywords and by hand; ours: by patterns",
        load=oktest,
        groups=("over-refusal",),
    )
)
