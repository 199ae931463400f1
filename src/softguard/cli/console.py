"""Consoles and progress bars: plain when not a terminal."""

import logging
import os
import sys
import time
import warnings
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is first imported: a library's bars would cut through ours
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # PEFT imports it, which tells of a kernel on the hub
out = Console()
err = Console(stderr=True)


def quiet_libraries() -> None:
    """Keep the libraries' own bars and warnings off the screen; ours says what is going on."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("torch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="transformers|torch|peft")


class Stages:
    """One bar with time left for each stage; without a terminal, a line at its start and every ten seconds.

    Time left is foretold from what was done since the stage's first call: what a resumed stage finds done was not done now.
    `shown` is False in all but one of several processes: their bars would write over each other.
    """

    def __init__(self, shown: bool = True) -> None:
        self._silent = not shown
        self._bar = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=err,
        )
        self._tasks: dict[str, TaskID] = {}
        self._first: dict[str, tuple[float, int]] = {}
        self._last, self._shown = 0.0, ("", -1)
        self._live = shown and sys.stderr.isatty()

    def __enter__(self) -> "Stages":
        quiet_libraries()
        if self._live:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._bar.stop()

    def __call__(self, stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        """Show that `done` of `total` of a stage are done."""
        if self._silent:
            return
        shown = " ".join(
            f"{k} {v:.3g}" for k, v in figures.items() if k in ("loss", "reward", "validation_auc", "validation_drift")
        )
        if self._live:
            if stage not in self._tasks:
                self._tasks[stage] = self._bar.add_task(stage, total=total, completed=done, figures="")
            self._bar.update(self._tasks[stage], completed=done, total=total, figures=shown)
            return
        now = time.monotonic()
        begins = stage not in self._first
        if self._shown == (stage, done):
            return
        started, before = self._first.setdefault(stage, (now, done))
        if begins or done == total or now - self._last > 10:
            self._last, self._shown = now, (stage, done)
            left = f", {(now - started) / (done - before) * (total - done):.0f} s left" if before < done < total else ""
            err.print(f"{stage}: {done}/{total}{left} {shown}".rstrip(), highlight=False, soft_wrap=True)
