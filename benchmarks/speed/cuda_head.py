"""Head and divergence on a CUDA card, forwards and backwards: our kernels, our chunks, plain PyTorch, Liger-Kernel.

python -m benchmarks.speed.cuda_head --json OUT [--rounds 7] [--seconds 150]

Time is CUDA events' around values and the gradient with respect to the student's states, contenders in turn, medians; memory is
the allocator's peak above what was there at the start. The divergence is Jensen-Shannon's, which Liger-Kernel has too. The
share of the ceiling is of the three products that nobody can do without (student, teacher, gradient: 2 N V D each) at the rate
measured on this card for a large square product. Liger-Kernel is taken as its documentation says; its chunked loss also makes
the head's gradient, which a frozen head does not need and its interface does not leave out; it compiles by default, which takes
so long that it is measured so at one shape, last. OUT is written after each measurement: a run cut off keeps what it has.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from softguard.core.head import Head
from softguard.objectives import divergences, triton_head
from softguard.objectives.fused_head import token_figures
from softguard.objectives.triton_head import Tiling

HEADS = {"smollm2": (49_152, 576), "gemma3-270m": (262_144, 640)}
POSITIONS = (320, 1_280, 4_096, 16_384)
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
FIGURES = ("log_prob", "total_variation", "forward_kl", "reverse_kl", "jensen_shannon", "tempered_total_variation")
EXPONENT = 0.5
TILINGS = (
    Tiling(64, 128, 64, 4, 3),
    Tiling(64, 128, 64, 4, 2),
    Tiling(64, 128, 64, 8, 3),
    Tiling(64, 256, 64, 8, 3),
    Tiling(128, 128, 64, 8, 3),
    Tiling(128, 128, 64, 8, 4),
    Tiling(128, 64, 64, 4, 4),
)
SINGLE = Tiling(32, 64, 32, 4, 2)
"""For float32 products in the kernel, which nothing but this benchmark asks for."""
_GIB = 2**30


class Case:
    """Head, states of both models and targets, on the card; the same numbers every time."""

    def __init__(self, head: str, count: int, dtype: torch.dtype) -> None:
        g = torch.Generator("cuda").manual_seed(0)
        tokens, width = HEADS[head]
        weight = torch.randn(tokens, width, generator=g, device="cuda").mul_(1.5 / width**0.5).to(dtype)
        states, other = (torch.randn(count, width, generator=g, device="cuda") for _ in range(2))
        self.head = Head(weight)
        self.teacher = (0.8 * states + 0.6 * other).to(dtype)
        self.states = states.to(dtype).requires_grad_()
        self.targets = torch.randint(tokens, (count,), generator=g, device="cuda")

    def ours(self, figure: str = "jensen_shannon", *, tiling: Tiling | None = None, library: bool | None = None) -> None:
        """Run our kernels as training does, through `token_figures`; with another tiling or source of products if asked to."""
        with patch.object(triton_head, "figures", partial(triton_head.figures, tiling=tiling, library=library)):
            found = token_figures(figure, self.head, self.states, self.targets, self.teacher, exponent=EXPONENT)  # type: ignore[arg-type]
        found.values.mean().backward()

    def chunked(self) -> None:
        """Run our chunks in plain PyTorch."""
        with patch.object(triton_head, "supported", lambda *_: False):
            self.ours()

    def found(self, figure: str, *, tiling: Tiling | None = None, library: bool | None = None) -> triton_head.Found:
        """Return what our kernels find, without a graph."""
        teacher = None if figure == "log_prob" else self.teacher
        given = (figure, self.head, self.states.detach(), self.targets, teacher, None, EXPONENT)
        return triton_head.figures(*given, wanted=True, tiling=tiling, library=library)

    def plain(self) -> None:
        """Run the divergence on all logits, as it is written."""
        student = (self.states @ self.head.weight.T).float()
        teacher = (self.teacher @ self.head.weight.T).float()
        divergences.jensen_shannon(student, teacher).mean().backward()

    def liger(self) -> Callable[[], None]:
        """Return Liger-Kernel's Triton op, head and Jensen-Shannon divergence in one."""
        from liger_kernel.transformers import LigerFusedLinearJSD

        loss = LigerFusedLinearJSD(jsd_beta=0.5)
        return lambda: loss(self.states, self.head.weight, self.teacher, self.head.weight, self.targets).backward()

    def liger_chunked(self, *, compiled: bool) -> Callable[[], None]:
        """Return Liger-Kernel's chunked distillation loss, the hard loss weighted 0."""
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, compiled=compiled)
        w = self.head.weight
        return lambda: loss(self.states, w, self.teacher, w, self.targets, None, None).backward()

    def contenders(self) -> dict[str, Callable[[], None]]:
        """Return who runs; a rival that cannot be imported says so when called."""
        return {
            "triton": partial(self.ours, library=False, tiling=SINGLE if self.states.dtype == torch.float32 else None),
            "triton_on_library_products": partial(self.ours, library=True),
            "chunked": self.chunked,
            "plain": self.plain,
            "liger": _late(self.liger),
            "liger_chunked": _late(partial(self.liger_chunked, compiled=False)),
        }


def _late(make: Callable[[], Callable[[], None]]) -> Callable[[], None]:
    made: list[Callable[[], None]] = []

    def run() -> None:
        if not made:
            made.append(make())
        made[0]()

    return run


def milliseconds(run: Callable[[], object]) -> float:
    """Return what one call takes on the card."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def first_run(case: Case, run: Callable[[], None]) -> dict[str, Any]:
    """Return the peak of memory of a second call, after a first that compiles, or the error that a contender met."""
    try:
        for _ in range(2):
            case.states.grad = None
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run()
            torch.cuda.synchronize()
        return {"peak_mib": round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)}
    except Exception as error:  # a contender's failure is its result, and the others go on
        torch.cuda.empty_cache()
        return {"error": f"{type(error).__name__}: {str(error)[:300]}"}


def compare(case: Case, contenders: Mapping[str, Callable[[], None]], rounds: int, ceiling: float) -> dict[str, dict[str, Any]]:
    """Return for each contender the median time, tokens/s, the share of the ceiling and the peak of memory."""
    found = {name: first_run(case, run) for name, run in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name, row in found.items() if "error" not in row}
    for number in range(rounds + 1):
        names = list(times)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            case.states.grad = None
            taken = milliseconds(contenders[name])
            if number:
                times[name].append(taken)
    products = 3 * 2 * len(case.states) * case.head.weight.numel()
    for name, taken in times.items():
        ms = median(taken)
        found[name] |= {
            "ms": round(ms, 4),
            "tokens_per_s": round(len(case.states) / ms * 1e3),
            "share_of_ceiling": round(products / (ms / 1e3) / (ceiling * 1e12), 4),
            "rounds_ms": [round(t, 4) for t in taken],
        }
    return found


def matmul_tflops(n: int, k: int, m: int, dtype: torch.dtype) -> float:
    """Return the rate of a product n x k by k x m of random numbers: the median of ten after three."""
    a, b = torch.randn(n, k, device="cuda").to(dtype), torch.randn(m, k, device="cuda").to(dtype).T
    taken = [milliseconds(lambda: a @ b) for _ in range(13)][3:]
    return round(2 * n * k * m / (median(taken) / 1e3) / 1e12, 1)


def ceilings() -> dict[str, float]:
    """Return the rates of a large square product and of the heads' shapes, in TFLOP/s."""
    squares = {f"square_8192_{name}": matmul_tflops(8_192, 8_192, 8_192, dtype) for name, dtype in DTYPES.items()}
    heads = {f"{name}_4096_bf16": matmul_tflops(4_096, d, v, torch.bfloat16) for name, (v, d) in HEADS.items()}
    return squares | heads


def errors(figure: str, dtype: torch.dtype, *, library: bool | None = None) -> dict[str, float]:
    """Return how far our kernels are from the plain form in float64 on the same numbers, 48 of them, relative to the largest."""
    case = Case("smollm2", 48, dtype)
    found = case.found(figure, library=library)
    weight, x = case.head.weight.double(), case.states.detach().double().requires_grad_()
    q, p = x @ weight.T, case.teacher.double() @ weight.T
    log_probs = torch.log_softmax(q, -1).gather(1, case.targets[:, None]).squeeze(1)
    extra = (EXPONENT,) if figure == "tempered_total_variation" else ()
    expected = log_probs if figure == "log_prob" else getattr(divergences, figure)(q, p, *extra)
    (slope,) = torch.autograd.grad(expected.sum(), x)
    assert found.gradient is not None
    return {
        "value": _far(found.values, expected.detach()),
        "log_prob": _far(found.log_probs, log_probs.detach()),
        "gradient": _far(found.gradient, slope),
        "gradient_norm": float((found.gradient.double() - slope).norm() / slope.norm()),
    }


def _far(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).abs().max() / expected.abs().max())


def _tried(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except Exception as error:  # the section says what broke, and the next one is measured
        torch.cuda.empty_cache()
        return {"error": f"{type(error).__name__}: {str(error)[:300]}"}


WARM = (
    *(f"smollm2:bf16:jensen_shannon:{number}" for number in range(len(TILINGS))),
    "gemma3-270m:bf16:jensen_shannon",
    "smollm2:fp32:jensen_shannon",
    *(f"smollm2:bf16:{figure}" for figure in FIGURES),
)
"""What is compiled beforehand, a process each: head, type, figure and perhaps a tiling's number."""


def warm(what: str) -> None:
    """Compile the kernels of one head, type, figure and tiling into Triton's cache."""
    head, dtype, figure, *number = what.split(":")
    case = Case(head, 320, DTYPES[dtype])
    if number:
        case.found(figure, tiling=TILINGS[int(number[0])])
        return
    for library in (False, True):
        tiling = SINGLE if case.states.dtype == torch.float32 and not library else None
        _tried(partial(case.found, figure, tiling=tiling, library=library))


def _warm_all(limit_s: float) -> None:
    """Compile in processes side by side, which is a matter of seconds where one after the other is of a minute."""
    command = [sys.executable, "-m", "benchmarks.speed.cuda_head", "--warm"]
    running = [subprocess.Popen([*command, what], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for what in WARM]
    end = time.monotonic() + limit_s
    for process in running:
        try:
            process.wait(max(1.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


def _options() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", type=Path, help="the file to write")
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--seconds", type=float, default=150.0, help="start no measurement after so many")
    options.add_argument("--warm", help=argparse.SUPPRESS)
    return options.parse_args()


def main() -> None:
    """Measure one thing after the other, the most wanted first, and write each down."""
    a = _options()
    if a.warm:
        warm(a.warm)
        return
    began = time.monotonic()
    found: dict[str, Any] = {}

    def keep(section: str, name: str, run: Callable[[], Any]) -> None:
        if time.monotonic() - began > a.seconds:
            return
        found.setdefault(section, {})[name] = _tried(run)
        found["seconds"] = round(time.monotonic() - began, 1)
        text = json.dumps(found, indent=1)
        print(section, name, f"{found['seconds']} s", json.dumps(found[section][name])[:1500], file=sys.stderr, flush=True)
        if a.json:
            temporary = a.json.with_suffix(".part")
            temporary.write_text(text + "\n")
            os.replace(temporary, a.json)

    keep("machine", "device", lambda: {"name": torch.cuda.get_device_name(), "memory_gib": _memory_gib()} | _versions())
    keep("machine", "compiling", lambda: _warm_all(60.0))
    keep("ceiling", "tflops", ceilings)
    rate = found.get("ceiling", {}).get("tflops", {})
    for figure in FIGURES:
        keep("errors", f"{figure}_bf16", partial(errors, figure, torch.bfloat16))
    keep("errors", "jensen_shannon_fp32", partial(errors, "jensen_shannon", torch.float32))
    keep("errors", "jensen_shannon_bf16_on_library_products", partial(errors, "jensen_shannon", torch.bfloat16, library=True))

    def measure(
        section: str, head: str, count: int, dtype: str, contenders: Callable[[Case], dict[str, Callable[[], None]]]
    ) -> None:
        ceiling = rate.get(f"square_8192_{dtype}", float("nan"))
        case = Case(head, count, DTYPES[dtype])
        keep(section, f"{head}_{count}_{dtype}", lambda: compare(case, contenders(case), a.rounds, ceiling))

    for count in POSITIONS:
        measure("compare", "smollm2", count, "bf16", Case.contenders)
    for count in (320, 4_096):
        measure("tilings", "smollm2", count, "bf16", lambda case: {str(t): partial(case.ours, tiling=t) for t in TILINGS})
    for count in POSITIONS:
        measure("compare", "gemma3-270m", count, "bf16", Case.contenders)
    measure("compare", "smollm2", 1_280, "fp32", Case.contenders)
    measure("figures", "smollm2", 4_096, "bf16", lambda case: {f: partial(case.ours, f) for f in FIGURES[1:]})
    measure("compiled", "smollm2", 4_096, "bf16", lambda c: {"liger_chunked": _late(partial(c.liger_chunked, compiled=True))})
    print(json.dumps(found, indent=1))


def _versions() -> dict[str, dict[str, str]]:
    found = {"cuda": str(torch.version.cuda)}
    for package in ("torch", "triton", "liger-kernel"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return {"versions": found}


def _memory_gib() -> float:
    return round(torch.cuda.get_device_properties(0).total_memory / _GIB, 1)


if __name__ == "__main__":
    main()
