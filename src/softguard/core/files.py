"""The one way files are written that another process may read or a kill may hit: beside their place, then moved there."""

import os
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, content: str | Callable[[Path], object]) -> None:
    """Write a text, or what a function writes to the path it is given; the folder is made where absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    if isinstance(content, str):
        partial.write_text(content, encoding="utf-8")
    else:
        content(partial)
    os.replace(partial, path)
