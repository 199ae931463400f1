"""What this machine is good at, measured once and remembered in the cache: in which type of number it multiplies fastest.

A processor with bf16 instructions (AVX512-bf16, AMX, Arm's BF16) multiplies bf16 two to ten times as fast as float32; one without
them eight times slower, since every product is emulated. No name of a processor says which: "AMD EPYC" is either.
"""

import hashlib
import json
import platform
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
    path = cache_dir() / "machine" / f"{_machine_key()}.json"
    if not path.exists():
        seconds = {str(dtype).removeprefix("torch."): _product_seconds(dtype) for dtype in (torch.bfloat16, torch.float32)}
        chosen = "float32" if seconds["bfloat16"] > _WORTH * seconds["float32"] else "bfloat16"
        write_atomically(path, json.dumps({"dtype": chosen, "product_seconds": seconds}) + "\n")
    dtype: torch.dtype = getattr(torch, json.loads(path.read_text())["dtype"])
    return dtype


def processor_name() -> str:
    """Return the processor's name for provenance."""
    return next(_cpuinfo("model name"), platform.processor())


def hardware_facts(device: torch.device) -> dict[str, Any]:
    """Return what a model's numbers depend on beside its config, for provenance: processor, threads, accelerator, precision."""
    facts: dict[str, Any] = {"machine": platform.machine(), "processor": processor_name(), "threads": torch.get_num_threads()}
    if device.type == "cuda":
        facts |= {"accelerator": torch.cuda.get_device_name(device), "float32_products": torch.get_float32_matmul_precision()}
    return facts


def _product_seconds(dtype: torch.dtype) -> float:
    """Return the least of five timings of a product of SmolLM2's shape."""
    a, b = torch.ones(256, 576, dtype=dtype), torch.ones(1536, 576, dtype=dtype)
    times = []
    for _ in range(6):
        started = time.perf_counter()
        torch.nn.functional.linear(a, b)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _machine_key() -> str:
    flags = next(_cpuinfo("flags"), next(_cpuinfo("Features"), ""))
    return hashlib.sha256(f"{platform.machine()}|{processor_name()}|{flags}|{torch.__version__}".encode()).hexdigest()[:16]


def _cpuinfo(field: str) -> Iterator[str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return (x.split(":", 1)[1].strip() for x in lines if x.split(":", 1)[0].strip() == field)
