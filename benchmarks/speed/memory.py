"""Peak memory of one training step, ours beside the usual loop, and how it grows with vocabulary and sequence.

python -m benchmarks.speed.memory [--json] [--rounds 3] [--model gemma3-270m] [--batch 8] [--tokens 128] [--response 40]
    [--virtual 20] [--without-bf16] [--without-curves] [--without-model]

Every figure is of a process of its own: it loads the model and makes its weights resident, notes its resident set, takes what a
step needs beforehand (ours: the teacher's states), sets the kernel's high-water mark back, and takes the steps. Reported is that
mark (`VmHWM`) less the resident set with the model loaded: activations, logits, gradients, optimiser, and whatever the
allocator keeps. The usual loop is `training_step.usual_step`: teacher in the loop, logits on all positions, divergence in
float32. The curves are of a two-layer model of random weights, so that the body is small and what the head costs shows.
"""

import argparse
import gc
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.speed.alone import MIB, in_a_process_of_its_own, peak_bytes, reset_peak, resident_bytes
from benchmarks.speed.plots import save
from benchmarks.speed.rounds import DTYPES, OUT, machine, own_dtype, parser, publish
from benchmarks.speed.training_step import ids, ours, usual_step
from softguard.models import LanguageModel, load_model
from tests.fakes import byte_tokenizer

MODEL = "gemma3-270m"
STEPS = 2
"""The first one makes the optimiser's state and whatever libraries make once; the second is as every later one."""
CONTENDERS = ("usual", "softguard")
VOCABULARIES = (8_192, 32_768, 131_072)
SEQUENCES = (64, 128, 256, 512)
TINY = "tiny"
MODULE = "benchmarks.speed.memory"


@dataclass(frozen=True)
class Case:
    """One process: who steps, on what."""

    contender: str
    model: str
    dtype: str
    batch: int
    tokens: int
    response: int
    virtual: int
    vocabulary: int = 0


def load(case: Case) -> LanguageModel:
    """Return the model of a case with weights that are memory of this process, not pages of a file."""
    dtype = DTYPES[case.dtype]
    if case.model == TINY:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=case.vocabulary,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=True,
        )
        network = LlamaForCausalLM(config).eval().requires_grad_(False).to(dtype)
        network.set_attn_implementation("grouped" if case.contender == "softguard" else "sdpa")
        return LanguageModel(network, byte_tokenizer(), TINY, TINY)
    lm = load_model(case.model, dtype=dtype, attention="grouped" if case.contender == "softguard" else "sdpa")
    for parameter in lm.network.parameters():
        parameter.data = parameter.data.clone()
    return lm


def measure(case: Case) -> dict[str, Any]:
    """Return the resident set with the model loaded and the peak while steps are taken, in bytes."""
    lm = load(case)
    given = ids(case.batch, case.tokens, lm.network.config.vocab_size)
    gc.collect()
    loaded = resident_bytes()
    step: Callable[[], object] = (
        ours(lm, given, case.response, case.virtual)
        if case.contender == "softguard"
        else usual_step(lm.network, given, case.response, case.virtual)
    )
    gc.collect()
    reset = reset_peak()
    for _ in range(STEPS):
        step()
    return {"loaded": loaded, "peak": peak_bytes(), "reset": reset}


def above_loaded_mib(case: Case, rounds: int, console: Console) -> list[float]:
    """Return for each round the peak less the resident set with the model loaded, in MiB."""
    found = []
    for _ in range(rounds):
        result = in_a_process_of_its_own(MODULE, asdict(case))
        found.append(round((result["peak"] - result["loaded"]) / MIB, 1))
    size = f"vocabulary {case.vocabulary}, " if case.vocabulary else ""
    console.print(f"{case.contender}_{case.dtype} {case.model}, {size}{case.tokens} tokens: {found} MiB", highlight=False)
    return found


def curve_cases(batch: int) -> Iterator[tuple[int, int, dict[str, Case]]]:
    """Yield vocabulary, tokens and the cases of both contenders; half of the tokens are the answer."""
    for vocabulary in VOCABULARIES:
        for tokens in SEQUENCES:
            cases = {name: Case(name, TINY, "fp32", batch, tokens, tokens // 2, 20, vocabulary) for name in CONTENDERS}
            yield vocabulary, tokens, cases


def growth(curve: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
    """Return by what factor the peak grew from the smallest to the largest vocabulary, and from the shortest to the longest
    sequence, each at the other's largest."""
    at = {(row["vocabulary"], row["tokens"]): row[f"{name}_mib"] for row in curve}
    most, longest = VOCABULARIES[-1], SEQUENCES[-1]
    return {
        f"vocabulary_x{most // VOCABULARIES[0]}": round(at[most, longest] / at[VOCABULARIES[0], longest], 2),
        f"tokens_x{longest // SEQUENCES[0]}": round(at[most, longest] / at[most, SEQUENCES[0]], 2),
    }


def plot(curve: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write peak memory by sequence, a line for each vocabulary and contender."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, dash in zip(CONTENDERS, ("--", "-"), strict=True):
        for shade, vocabulary in enumerate(VOCABULARIES):
            rows = [r for r in curve if r["vocabulary"] == vocabulary]
            label = f"{'usual loop' if name == 'usual' else name}, {vocabulary // 1024}k"
            x, y = [r["tokens"] for r in rows], [r[f"{name}_mib"] for r in rows]
            axes.plot(x, y, dash, color=f"C{shade}", marker="o", markersize=3, label=label)
    axes.set(xscale="log", yscale="log", xlabel="tokens of a row", ylabel="peak of a step above the model, MiB")
    axes.set_xticks(SEQUENCES, [str(s) for s in SEQUENCES])
    axes.minorticks_off()
    figure.legend(loc="outside right upper", frameon=False)
    save(figure, path)


def _options() -> argparse.Namespace:
    options = parser(__doc__, rounds=3)
    options.add_argument("--model", default=MODEL)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--tokens", type=int, default=128, help="of prompt and response together")
    options.add_argument("--response", type=int, default=40)
    options.add_argument("--virtual", type=int, default=20)
    options.add_argument("--without-curves", action="store_true", help="leave out the tiny models")
    options.add_argument("--without-model", action="store_true", help="leave out the real model")
    options.add_argument("--case", help=argparse.SUPPRESS)
    return options.parse_args()


def main() -> None:
    """Measure, print, write."""
    a = _options()
    if a.case:
        print(json.dumps(measure(Case(**json.loads(a.case)))))
        return
    console, found = Console(stderr=True), {}
    if not a.without_model:
        peaks = {
            f"{name}_{dtype}": above_loaded_mib(
                Case(name, a.model, dtype, a.batch, a.tokens, a.response, a.virtual), a.rounds, console
            )
            for dtype in DTYPES
            if dtype != "bf16" or not a.without_bf16
            for name in CONTENDERS
        }
        middle = {name: median(values) for name, values in peaks.items()}
        shares = {d: round(middle[f"softguard_{d}"] / middle[f"usual_{d}"], 4) for d in DTYPES if f"usual_{d}" in middle}
        found |= {
            "softguard_dtype": own_dtype(without_bf16=a.without_bf16),
            "share_of_usual": shares,
            "median_peak_mib": middle,
            "peak_mib": peaks,
        }
    if not a.without_curves:
        curve = []
        for vocabulary, tokens, cases in curve_cases(a.batch):
            measured = {f"{name}_mib": above_loaded_mib(case, 1, console)[0] for name, case in cases.items()}
            curve.append({"vocabulary": vocabulary, "tokens": tokens, **measured})
        found |= {"curve": curve, "growth": {name: growth(curve, name) for name in CONTENDERS}}
        if not a.json:
            plot(curve, OUT / "memory_curve.svg")
    measured_as = "VmHWM during the steps less the resident set with the model loaded, a process each"
    settings = {k: v for k, v in vars(a).items() if k != "case"}
    publish("memory", {**found, "measured": measured_as, **machine(), "settings": settings}, only_json=a.json)


if __name__ == "__main__":
    main()
