"""A measurement in a process of its own, and what that process says of its memory.

The module that measures is started again with `--case` and a case as JSON, and prints what it found as its last line.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MIB = 2**20
_CLEAR = Path("/proc/self/clear_refs")


def in_a_process_of_its_own(module: str, case: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a fresh process measured.

    Raises:
        RuntimeError: it failed; the last line of what it said.
    """
    command = [sys.executable, "-m", module, "--case", json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{case}: {done.stderr.strip().splitlines()[-1:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def resident_bytes() -> int:
    """Return the resident set now; where the kernel does not say, the highest so far."""
    return _status("VmRSS") or peak_bytes()


def peak_bytes() -> int:
    """Return the highest resident set since `reset_peak`.

    Not `ru_maxrss` where the kernel says more: a process inherits that one from whoever started it, and it is never set back.
    """
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return _status("VmHWM") or (found if sys.platform == "darwin" else found * 1024)  # bytes there, KiB elsewhere


def _status(name: str) -> int | None:
    """Return a figure of this process's memory in bytes, None where the kernel has no such file."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith(f"{name}:")), None)


def reset_peak() -> bool:
    """Set the high-water mark to the resident set; False where that cannot be done (the mark then has the loading in it)."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True
