"""What holds for all tests.

Shapes in the signatures of objectives are checked: a jaxtyping annotation that does not hold is an error. Each process has one
thread: two processes of two threads each on two cores wait for each other's barriers, ten times as long as they work.
"""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported
if not Path("/proc/driver/nvidia").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is first imported, which torch may do

from jaxtyping import install_import_hook

install_import_hook("softguard.objectives", "beartype.beartype")
