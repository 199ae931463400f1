"""OR-Bench: safe requests that strong models refused, and toxic ones."""

from softguard.data.or_bench import or_bench
from softguard.evaluation.suites.suite import SUITES, Suite

OR_BENCH = SUITES.register("or_bench")(
    Suite(
        title="OR-Bench, hard and toxic",
        source="Cui et al. 2025, arXiv 2405.20947; huggingface.co/datasets/bench-llm/or-bench",
        licence="CC BY 4.0",
        size=1974,
        metric=(
            "share rejected of the hard safe requests against that of the toxic ones, by GPT-4 or keywords; ours: by patterns; "
            "without the 80,000"
        ),
        load=or_bench,
        groups=("safety", "over-refusal"),
    )
)
