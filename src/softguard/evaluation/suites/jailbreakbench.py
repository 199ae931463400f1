"""JailbreakBench: a hundred harmful behaviours, and a hundred benign ones on the same themes."""

from softguard.data import PromptRow
from softguard.data.jailbreakbench import jailbreakbench
from softguard.evaluation.suites.suite import SUITES, Suite


def _pair(row: PromptRow) -> str:
    return row.look_alike_of or row.id


JAILBREAKBENCH = SUITES.register("jailbreakbench")(
    Suite(
        title="JailbreakBench",
        source="Chao et al. 2024, arXiv 2404.01318; huggingface.co/datasets/JailbreakBench/JBB-Behaviors",
        licence="MIT",
        size=200,
        metric=(
            "attack success by Llama 3 70B, and over-refusal of the benign half by Llama 3 8B; ours: by the named judge, and by "
            "patterns; families are its pairs"
        ),
        load=jailbreakbench,
        groups=("safety", "over-refusal"),
        family=_pair,
    )
)
