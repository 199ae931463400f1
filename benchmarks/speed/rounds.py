"""Contenders in turn, round by round: what the machine does meanwhile meets all of them alike."""

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console

from benchmarks.speed.plots import bars, save
from softguard.core.files import write_atomically
from softguard.models import LanguageModel, best_device, fast_dtype, load_model, processor_name, tune, use_kernel

MODEL = "smollm2-135m"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
OUT = Path(__file__).parent / "results"


def parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options that all these benchmarks have."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--json", action="store_true", help="print the result only, write no file")
    found.add_argument("--rounds", type=int, default=rounds)
    found.add_argument("--without-bf16", action="store_true", help="leave out bf16, which is emulated on some processors")
    return found


def models(*, without_bf16: bool) -> Iterator[tuple[str, LanguageModel]]:
    """Yield the embedded model by the short name of each type that is measured, with the kernel that `distill` takes."""
    for name, dtype in DTYPES.items():
        if name != "bf16" or not without_bf16:
            lm = load_model(MODEL, dtype=dtype)
            use_kernel(lm.network, tune(lm, threads=torch.get_num_threads()).attention)
            yield name, lm


def own_dtype(*, without_bf16: bool = False) -> str:
    """Return the short name of the type that `model.dtype = "auto"` takes here, of those that are measured."""
    if without_bf16:
        return "fp32"
    return next(name for name, dtype in DTYPES.items() if dtype == fast_dtype(best_device()))


def timed_rounds(
    contenders: Mapping[str, Callable[[], object]], rounds: int, warm_up: Callable[[], object] | None = None
) -> dict[str, list[float]]:
    """Return the seconds of each contender in each round, whose order turns.

    Every contender runs once before, untimed; where that takes too long `warm_up` is run instead of them all.
    """
    names = list(contenders)
    console = Console(stderr=True)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    if warm_up:
        warm_up()
    for number in range(1 if warm_up else 0, rounds + 1):
        turned = names[number % len(names) :] + names[: number % len(names)]
        for name in turned:
            started = time.perf_counter()
            contenders[name]()
            taken = time.perf_counter() - started
            if number:
                seconds[name].append(taken)
            console.print(f"{'warm-up' if not number else f'round {number}'}: {name} {taken:.2f} s", highlight=False)
    return seconds


def ratio(seconds: Mapping[str, list[float]], slow: str, fast: str) -> float | None:
    """Return the median over rounds of slow / fast; None where one of them did not run."""
    if slow not in seconds or fast not in seconds:
        return None
    return round(median(s / f for s, f in zip(seconds[slow], seconds[fast], strict=True)), 3)


def result(seconds: Mapping[str, list[float]], **figures: Any) -> dict[str, Any]:
    """Return what is printed and committed: figures, medians, all rounds, and the machine that made them."""
    return {
        **figures,
        "median_seconds": {name: round(median(values), 4) for name, values in seconds.items()},
        "seconds": {name: [round(v, 4) for v in values] for name, values in seconds.items()},
        **machine(),
    }


def machine() -> dict[str, Any]:
    """Return the hardware and the versions that made a result."""
    return {
        "hardware": {"machine": platform.machine(), "processor": processor_name(), "threads": torch.get_num_threads()},
        "versions": {name: found for name in ("softguard", "torch", "transformers", "peft", "trl") if (found := _version(name))},
    }


def publish(name: str, found: Mapping[str, Any], *, only_json: bool) -> None:
    """Print the result as one JSON object; without --json write it to `results/NAME.json` as well, and its bars beside it."""
    text = json.dumps(found, indent=1)
    print(text)
    if not only_json:
        OUT.mkdir(exist_ok=True)
        write_atomically(OUT / f"{name}.json", text + "\n")
        if figure := bars(found):
            save(figure, OUT / f"{name}.svg")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
