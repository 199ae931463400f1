"""The processes that do one job together, as Accelerate sets them up; a job that nobody launched so is one process.

One idea: what each process does alone is a share, what must be the same in all is gathered or comes from the main process, and
only the main process writes. Of one process every call is the plain one: nothing is imported, copied or sent.

Nothing here catches the failure of another process. A launcher (`accelerate launch`, `torchrun`) ends all of them when one fails.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Where launchers say of how many processes this is one; those that Accelerate reads."""
PATIENCE = timedelta(days=7)
"""How long one process waits for another, which may be sampling drafts: the launcher, not the clock, knows of a failure."""


@dataclass(frozen=True)
class Processes:
    """This process among those of the job: `index` from 0, the main one, of `count`."""

    index: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes, reports and decides."""
        return self.index == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """Return this process's part of `items`, whose number `count` divides: parts lie one after another."""
        each = len(items) // self.count
        return list(items[self.index * each : (self.index + 1) * each])

    def gather(self, items: Sequence[T]) -> list[T]:
        """Return the items of all processes, one process's after another's. They may be of any number, and are pickled."""
        if self.count == 1:
            return list(items)
        from accelerate.utils import gather_object

        found: list[T] = gather_object(list(items))
        return found

    def from_main(self, make: Callable[[], T]) -> T:
        """Return what `make` gives in the main process; the others do not call it. It is pickled."""
        if self.count == 1:
            return make()
        from accelerate.utils import broadcast_object_list

        given: list[T] = broadcast_object_list([make() if self.is_main else None])
        return given[0]

    def wait(self) -> None:
        """Return once every process has come here."""
        if self.count > 1:
            _state().wait_for_everyone()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the main process do something before the others: what it fetches, makes or measures is then there for them."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()

    def leave(self) -> None:
        """End the work together, in all processes at one place; each may go on alone."""
        if self.count > 1:
            self.wait()
            _state().destroy_process_group()


@cache
def processes() -> Processes:
    """Return this process among those of the job, joined on the first call: before a model is loaded, for it chooses the GPU."""
    if max(int(os.environ.get(name, "1")) for name in SIZES) == 1:
        return Processes()
    state = _state()
    return Processes(state.process_index, state.num_processes)


def _state() -> Any:
    import torch
    from accelerate import PartialState

    # Without this Accelerate takes each process of a machine that has no accelerator for one that is alone.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
