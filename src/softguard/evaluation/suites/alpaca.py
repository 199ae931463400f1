"""Alpaca's last instructions: everyday requests that nobody should refuse."""

from softguard.data.alpaca import alpaca_heldout
from softguard.evaluation.suites.suite import SUITES, Suite

ALPACA = SUITES.register("alpaca")(
    Suite(
        title="Alpaca, held out",
        source="Taori et al. 2023; github.com/tatsu-lab/stanford_alpaca",
        licence="CC BY-NC 4.0",
        size=2000,
        metric="none of its authors' for refusals; ours: over-refusal by patterns",
        load=alpaca_heldout,
        groups=("over-refusal",),
    )
)
