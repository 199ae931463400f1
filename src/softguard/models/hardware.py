"""What this machine is good at, measured once and remembered in the cache: in which type of number it multiplies fastest.

What depends on the model, too, is in `autotune`.

A processor with bf16 instructions (AVX512-bf16, AMX, Arm's BF16) multiplies bf16 two to ten times as fast as float32; one without
them eight times slower, since every product is emulated. No name of a processor says which: "AMD EPYC" is either.
"""

import hashlib
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from softguard.core.files import write_atomically
from softguard.sources import cache_dir

_WORTH = 1.25
"""float32 takes twice the memory: it has to be this much faster to be chosen."""


def fast_dtype(device: str) -> torch.dtype:
    """Return the dtype in which frozen weights are to be held on `device`: bfloat16, or float32 where that is much faster."""
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device != "cpu":
        return torch.bfloat16
    dtype: torch.dtype = getattr(torch, _measured()["dtype"])
    return dtype


def product_seconds() -> dict[str, float]:
    """Return for each dtype the seconds of the product by which `fast_dtype` chose for this processor."""
    seconds: dict[str, float] = _measured()["product_seconds"]
    return seconds


def thread_counts() -> tuple[int, ...]:
    """Return the numbers of threads worth trying on this processor: physical cores, all that this process may use, one.

    None exceeds what the scheduler, a container's quota or `OMP_NUM_THREADS` allows.
    """
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    siblings = [Path(f"/sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list") for n in allowed]
    known = all(path.exists() for path in siblings)
    physical = len({path.read_text() for path in siblings}) if known else torch.get_num_threads()
    limit = min(len(allowed), _quota(), _given_threads())
    return tuple(dict.fromkeys(max(1, min(count, limit)) for count in (physical, len(allowed), 1)))


def processor_name() -> str:
    """Return the processor's name for provenance."""
    return next(_cpuinfo("model name"), platform.processor())


def hardware_facts(device: torch.device) -> dict[str, Any]:
    """Return what a model's numbers depend on beside its config, for provenance: processor, threads, accelerator, precision."""
    facts: dict[str, Any] = {"machine": platform.machine(), "processor": processor_name(), "threads": torch.get_num_threads()}
    if device.type == "cuda":
        facts |= {"accelerator": torch.cuda.get_device_name(device), "float32_products": torch.get_float32_matmul_precision()}
    return facts


def _measured() -> dict[str, Any]:
    path = cache_dir() / "machine" / f"{machine_key()}.json"
    if not path.exists():
        seconds = {str(dtype).removeprefix("torch."): _product_seconds(dtype) for dtype in (torch.bfloat16, torch.float32)}
        chosen = "float32" if seconds["bfloat16"] > _WORTH * seconds["float32"] else "bfloat16"
        write_atomically(path, json.dumps({"dtype": chosen, "product_seconds": seconds}) + "\n")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _quota() -> int:
    """Return how many cores a container may keep busy, by its control group (version 2)."""
    path = Path("/sys/fs/cgroup/cpu.max")
    limit, _, period = (path.read_text().strip() if path.exists() else "max").partition(" ")
    return math.ceil(int(limit) / int(period)) if limit.isdigit() and period.isdigit() else sys.maxsize


def _given_threads() -> int:
    """Return what the user or a launcher set for PyTorch."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(given) if given.isdigit() and int(given) else sys.maxsize


def _product_seconds(dtype: torch.dtype) -> float:
    """Return the least of five timings of a product of SmolLM2's shape."""
    a, b = torch.ones(256, 576, dtype=dtype), torch.ones(1536, 576, dtype=dtype)
    times = []
    for _ in range(6):
        started = time.perf_counter()
        torch.nn.functional.linear(a, b)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def machine_key() -> str:
    """Return what names this kind of machine with this PyTorch: architecture, processor and its instructions."""
    flags = next(_cpuinfo("flags"), next(_cpuinfo("Features"), ""))
    return hashlib.sha256(f"{platform.machine()}|{processor_name()}|{flags}|{torch.__version__}".encode()).hexdigest()[:16]


def _cpuinfo(field: str) -> Iterator[str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return (x.split(":", 1)[1].strip() for x in lines if x.split(":", 1)[0].strip() == field)
