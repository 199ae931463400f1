"""SORRY-Bench: ten requests of each of 44 kinds."""

from softguard.data.sorry_bench import sorry_bench
from softguard.evaluation.suites.suite import SUITES, Suite

SORRY_BENCH = SUITES.register("sorry_bench")(
    Suite(
        title="SORRY-Bench",
        source="Xie et al. 2024, arXiv 2406.14598; huggingface.co/datasets/sorry-bench/sorry-bench-202503",
        licence="its own licence, to be accepted",
        size=440,
        metric=(
            "share of requests fulfilled, by their fine-tuned Mistral 7B; ours: by the named judge. Its last kinds are bad "
            "advice rather than harm, so that 0 is not the best value"
        ),
        load=sorry_bench,
        groups=("safety",),
    )
)
