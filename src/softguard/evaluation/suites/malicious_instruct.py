"""MaliciousInstruct: harmful questions in ten kinds."""

from softguard.data.malicious_instruct import malicious_instruct
from softguard.evaluation.suites.suite import SUITES, Suite

MALICIOUS_INSTRUCT = SUITES.register("malicious_instruct")(
    Suite(
        title="MaliciousInstruct",
        source="Huang et al. 2023, arXiv 2310.06987; github.com/Princeton-SysML/Jailbreak_LLM",
        licence="none stated",
        size=100,
        metric="attack success by a trained classifier, checked by people; ours: by the named judge",
        load=malicious_instruct,
        groups=("safety",),
    )
)
