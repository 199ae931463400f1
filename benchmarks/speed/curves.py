"""What cost grows with: time of a step by tokens, time and peak memory of head and divergence by vocabulary.

python -m benchmarks.speed.curves [--json] [--rounds 3] [--batch 2] [--lengths 64 128 256 512] [--virtual 20]
    [--vocabularies 8192 32768 49152 131072 262144] [--positions 64 256] [--without-steps] [--without-heads] [--without-bf16]

Steps are those of `training_step` on the embedded model, in the type that is fastest here; half of a row's tokens are the
response. Heads are random, of SmolLM2's width: forward KL and its gradient with respect to the student's states, ours
(`token_figures`, in chunks) beside all logits in plain PyTorch, each in a process of its own, whose peak is above what it held
with head and states. How a whole step's peak grows is in `memory`. `exponents` say by what power a figure grew between the two
ends: 1 is in proportion, 0 is not at all. Where `reset` is false the kernel cannot set a peak back, and it has the making of the
head in it.
"""

import argparse
import gc
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.speed.alone import MIB, in_a_process_of_its_own, peak_bytes, reset_peak, resident_bytes
from benchmarks.speed.plots import made_on, save
from benchmarks.speed.rounds import DTYPES, MODEL, OUT, machine, models, own_dtype, parser, publish, timed_rounds
from benchmarks.speed.training_step import ids, ours, usual_step
from softguard.core.head import Head
from softguard.models import load_model
from softguard.objectives import divergences
from softguard.objectives.fused_head import token_figures
from softguard.reports.drawing import DASHES, MARKERS, SERIES, STYLE

MODULE = "benchmarks.speed.curves"
WIDTH = 576
"""SmolLM2's."""
CONTENDERS = {"softguard": "softguard", "plain": "all logits, usual loop"}
Curve = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class HeadCase:
    """One process: whose head, of what size."""

    contender: str
    vocabulary: int
    positions: int
    dtype: str
    rounds: int


def measure(case: HeadCase) -> dict[str, Any]:
    """Return the seconds of each round after one that is not counted, and the peak above head and states in MiB."""
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(case.vocabulary, WIDTH, generator=g).mul_(1.5 / WIDTH**0.5).to(DTYPES[case.dtype])
    teacher, states = (torch.randn(case.positions, WIDTH, generator=g).to(weight.dtype) for _ in range(2))
    targets = torch.randint(case.vocabulary, (case.positions,), generator=g)
    step = head_step(case.contender, Head(weight), states.requires_grad_(), teacher, targets)
    gc.collect()
    reset, loaded, seconds = reset_peak(), resident_bytes(), []
    for _ in range(case.rounds + 1):
        states.grad = None
        started = time.perf_counter()
        step()
        seconds.append(round(time.perf_counter() - started, 5))
    return {"seconds": seconds[1:], "peak_mib": round((peak_bytes() - loaded) / MIB, 1), "reset": reset}


def head_step(
    contender: str, head: Head, states: torch.Tensor, teacher: torch.Tensor, targets: torch.Tensor
) -> Callable[[], None]:
    """Return forward KL and its gradient with respect to the states, by our chunks or on all logits."""

    def chunked() -> None:
        token_figures("forward_kl", head, states, targets, teacher).values.sum().backward()

    def plain() -> None:
        with torch.no_grad():
            wanted = head.logits(teacher)
        divergences.forward_kl(head.logits(states), wanted).sum().backward()

    return {"softguard": chunked, "plain": plain}[contender]


def head_curve(vocabularies: Sequence[int], positions: Sequence[int], dtype: str, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each size: median seconds and peak of each contender, and all rounds."""
    console, curve = Console(stderr=True), []
    for count in positions:
        for vocabulary in vocabularies:
            row: dict[str, Any] = {"vocabulary": vocabulary, "positions": count}
            for name in CONTENDERS:
                found = in_a_process_of_its_own(MODULE, asdict(HeadCase(name, vocabulary, count, dtype, rounds)))
                row |= {
                    f"{name}_s": median(found["seconds"]),
                    f"{name}_mib": found["peak_mib"],
                    f"{name}_rounds": found["seconds"],
                }
            console.print(row, highlight=False)
            curve.append(row)
    return curve


def step_curve(lengths: Sequence[int], batch: int, virtual: int, dtype: str, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each length: median seconds of each contender's step, and all rounds."""
    lm = next(lm for name, lm in models(without_bf16=dtype == "fp32") if name == dtype)
    base = load_model(MODEL, dtype=DTYPES[dtype], attention="sdpa")
    contenders: dict[str, Callable[[], object]] = {}
    for length in lengths:
        given = ids(batch, length, lm.network.config.vocab_size)
        contenders[f"softguard_{length}"] = ours(lm, given, length // 2, virtual)
        contenders[f"plain_{length}"] = usual_step(base.network, given, length // 2, virtual)
    seconds = timed_rounds(contenders, rounds)
    return [
        {"tokens": batch * (length + virtual), "length": length}
        | {f"{name}_s": round(median(seconds[f"{name}_{length}"]), 4) for name in CONTENDERS}
        | {f"{name}_rounds": [round(s, 4) for s in seconds[f"{name}_{length}"]] for name in CONTENDERS}
        for length in lengths
    ]


def exponent(curve: Curve, by: str, figure: str) -> float | None:
    """Return log(ratio of the figure) / log(ratio of `by`) between the ends of a curve; None where it has one end or a 0."""
    rows = sorted(curve, key=lambda row: row[by])
    (x, y), (x_end, y_end) = ((row[by], row[figure]) for row in (rows[0], rows[-1]))
    if x == x_end or min(y, y_end) <= 0:
        return None
    return round(math.log(y_end / y) / math.log(x_end / x), 3)


def exponents(steps: Curve, heads: Curve) -> dict[str, Any]:
    """Return the exponents of every figure of both curves; those of heads at their largest count of positions."""
    found: dict[str, Any] = {}
    most = max((row["positions"] for row in heads), default=0)
    wide = [row for row in heads if row["positions"] == most]
    for name in CONTENDERS:
        if steps:
            found[f"{name}_step_seconds_by_tokens"] = exponent(steps, "tokens", f"{name}_s")
        if wide:
            found[f"{name}_head_seconds_by_vocabulary"] = exponent(wide, "vocabulary", f"{name}_s")
            found[f"{name}_head_peak_by_vocabulary"] = exponent(wide, "vocabulary", f"{name}_mib")
    return found


def plot(found: Mapping[str, Any]) -> Figure:
    """Return the drawing: a panel for each curve, ours and the plain one in each."""
    steps, heads = found.get("steps", ()), found.get("heads", ())
    panels = [(steps, "tokens", "s", "a step, seconds")] if steps else []
    if heads:
        panels += [(heads, "vocabulary", "s", "head and divergence, seconds"), (heads, "vocabulary", "mib", "their peak, MiB")]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(panels), 3.6), layout="constrained")
        for axes, (curve, by, measure, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            counts = sorted({row["positions"] for row in curve if "positions" in row}) or [None]
            for i, (name, label) in enumerate(CONTENDERS.items()):
                for k, count in enumerate(counts):
                    rows = [row for row in curve if row.get("positions") == count]
                    axes.plot(
                        [row[by] for row in rows],
                        [row[f"{name}_{measure}"] for row in rows],
                        DASHES[k % len(DASHES)],
                        color=SERIES[1 - i],
                        marker=MARKERS[k % len(MARKERS)],
                        markersize=4,
                        label=label if count is None else f"{label}, {count} positions",
                    )
            ticks = sorted({row[by] for row in curve})
            axes.set(xscale="log", yscale="log", xlabel=by, xticks=ticks)
            axes.set_xticks(ticks, [f"{tick // 1024}k" if by == "vocabulary" else str(tick) for tick in ticks])
            axes.minorticks_off()
            axes.set_title(title, fontsize=9)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, handlelength=2.6)
        figure.suptitle(made_on(found), fontsize=8)
    return figure


def _options() -> argparse.Namespace:
    options = parser(__doc__, rounds=3)
    options.add_argument("--batch", type=int, default=2)
    options.add_argument("--lengths", type=int, nargs="+", default=[64, 128, 256, 512], help="of prompt and response together")
    options.add_argument("--virtual", type=int, default=20)
    options.add_argument("--vocabularies", type=int, nargs="+", default=[8_192, 32_768, 49_152, 131_072, 262_144])
    options.add_argument("--positions", type=int, nargs="+", default=[64, 256])
    options.add_argument("--without-steps", action="store_true", help="leave out the embedded model")
    options.add_argument("--without-heads", action="store_true", help="leave out the random heads")
    options.add_argument("--case", help=argparse.SUPPRESS)
    return options.parse_args()


def main() -> None:
    """Measure, print, write."""
    a = _options()
    if a.case:
        print(json.dumps(measure(HeadCase(**json.loads(a.case)))))
        return
    dtype = own_dtype(without_bf16=a.without_bf16)
    steps = [] if a.without_steps else step_curve(a.lengths, a.batch, a.virtual, dtype, a.rounds)
    heads = [] if a.without_heads else head_curve(a.vocabularies, a.positions, dtype, a.rounds)
    settings = {k: v for k, v in vars(a).items() if k != "case"}
    figures = {"dtype": dtype, "exponents": exponents(steps, heads), "steps": steps, "heads": heads}
    found = {**figures, **machine(), "settings": settings}
    publish("curves", found, only_json=a.json)
    if not a.json and (steps or heads):
        save(plot(found), OUT / "curves.svg")


if __name__ == "__main__":
    main()
