"""AdvBench's harmful behaviours."""

from softguard.data.advbench import advbench
from softguard.evaluation.suites.suite import SUITES, Suite

ADVBENCH = SUITES.register("advbench")(
    Suite(
        title="AdvBench",
        source="Zou et al. 2023, arXiv 2307.15043; github.com/llm-attacks/llm-attacks",
        licence="MIT",
        size=520,
        metric="attack success: no refusal string in the answer; `--judge refusal` is the nearest, by our own patterns",
        load=advbench,
        groups=("safety",),
    )
)
