"""A whole training job, teacher pass included, beside PEFT's prompt tuning with the usual loop.

python -m benchmarks.speed.whole_job [--json] [--rounds 3] [--examples 32] [--batch 8] [--epochs 1 3] [--tokens 128]
    [--response 40] [--virtual 20] [--without-bf16]

Ours runs the teacher once over all examples, keeps its states at response positions, and then steps through the epochs; the usual
loop runs the teacher in every step. Rows are of one length, so the usual loop pads nothing. Neither samples responses (`sampling`
measures that), loads a model, validates or writes to the disk. Every job is timed from its start; before the first round each
contender takes one step, untimed.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import torch

from benchmarks.speed.rounds import MODEL, models, own_dtype, parser, publish, ratio, result, timed_rounds
from benchmarks.speed.training_step import examples, ids, our_step, soft_prompt, teacher_states, usual_steps
from softguard.models import LanguageModel, load_model

Rows = TypeVar("Rows", bound=Sequence[Any] | torch.Tensor)


def batches(rows: Rows, size: int, epochs: int) -> Iterator[Rows]:
    """Yield every row once in each epoch, `size` at a time; the last batch of an epoch may be smaller."""
    for _ in range(epochs):
        for start in range(0, len(rows), size):
            yield rows[start : start + size]


def our_job(lm: LanguageModel, given: torch.Tensor, response: int, virtual: int, batch: int, epochs: int) -> None:
    """Run the teacher over the data, then take our steps with a fresh soft prompt."""
    rows = examples(given, teacher_states(lm, given, response), response)
    step = our_step(lm, soft_prompt(lm, virtual))
    for part in batches(rows, batch, epochs):
        step(part)


def usual_job(base: Any, given: torch.Tensor, response: int, virtual: int, batch: int, epochs: int) -> None:
    """Take the usual steps with a fresh soft prompt."""
    step = usual_steps(base, response, virtual)
    for part in batches(given, batch, epochs):
        step(part)


def ratios(seconds: dict[str, list[float]], fast: str, epochs: Sequence[int]) -> dict[str, float | None]:
    """Return the ratio of the usual job to ours in our type, against each type of the usual one, for each count of epochs."""
    against = {"bf16": "bf16", "fp32": "fp32", "same_dtype": fast}
    return {
        f"ratio_vs_peft_{name}_epochs_{n}": ratio(seconds, job("peft", dtype, n), job("softguard", fast, n))
        for n in epochs
        for name, dtype in against.items()
    }


def job(contender: str, dtype: str, epochs: int) -> str:
    """Return the name of a job in the result."""
    return f"{contender}_{dtype}_epochs_{epochs}"


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, rounds=3)
    options.add_argument("--examples", type=int, default=32)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--epochs", type=int, nargs="+", default=[1, 3])
    options.add_argument("--tokens", type=int, default=128, help="of prompt and response together")
    options.add_argument("--response", type=int, default=40)
    options.add_argument("--virtual", type=int, default=20)
    a = options.parse_args()
    contenders: dict[str, Callable[[], object]] = {}
    once: list[Callable[[], object]] = []
    for name, lm in models(without_bf16=a.without_bf16):
        given = ids(a.examples, a.tokens, lm.network.config.vocab_size)
        base = load_model(MODEL, dtype=lm.dtype, attention="sdpa").network
        for contender, run, model in (("peft", usual_job, base), ("softguard", our_job, lm)):
            sizes = (a.response, a.virtual, a.batch)
            once.append(partial(run, model, given[: a.batch], *sizes, 1))
            for n in a.epochs:
                contenders[job(contender, name, n)] = partial(run, model, given, *sizes, n)
    seconds = timed_rounds(contenders, a.rounds, warm_up=lambda: [run() for run in once])
    fast = own_dtype(without_bf16=a.without_bf16)
    figures = ratios(seconds, fast, a.epochs)
    publish("whole_job", result(seconds, softguard_dtype=fast, **figures, settings=vars(a)), only_json=a.json)


if __name__ == "__main__":
    main()
