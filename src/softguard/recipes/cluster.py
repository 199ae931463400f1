"""Where Ray runs our tasks: workers on this machine, or a cluster that is there already.

One idea: Ray schedules, tries again and moves data; we say how many tasks run at a time and what each may use.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from softguard.errors import ConfigError


@dataclass(frozen=True)
class Cluster:
    """How many tasks run at a time, and where.

    Attributes:
        workers: tasks at a time on this machine, whose cores they share out; on a cluster they say how many cores a task has.
        address: a Ray cluster (`auto`, `ray://HOST:10001`), which runs as many tasks as it has room for; None is this machine.
    """

    workers: int = 1
    address: str | None = None

    @property
    def is_this_process(self) -> bool:
        """Whether Ray is not needed at all."""
        return self.workers == 1 and self.address is None

    @property
    def threads(self) -> int:
        """The cores of a task."""
        return max(1, (os.cpu_count() or 1) // self.workers)

    def connect(self) -> Any:
        """Return the module `ray`, connected, with our environment variables set in its workers.

        Raises:
            ConfigError: Ray is not installed, or no cluster is at the address.
        """
        try:
            import ray
        except ImportError as error:
            raise ConfigError(
                "Ray, for several workers or a cluster", "it is not installed", "pip install 'softguard[study]'"
            ) from error
        if ray.is_initialized():
            return ray
        kept = {k: v for k, v in os.environ.items() if k.startswith("SOFTGUARD_")} | {"OMP_NUM_THREADS": str(self.threads)}
        local = {} if self.address else {"num_cpus": self.workers * self.threads, "include_dashboard": False}
        try:
            ray.init(address=self.address, runtime_env={"env_vars": kept}, log_to_driver=False, configure_logging=False, **local)
        except (ConnectionError, ValueError) as error:
            raise ConfigError(f"a Ray cluster at {self.address}", str(error)[:160], "start it, or leave --address out") from error
        return ray

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """Give `ray` for a `with` block; what was begun for it ends with it, and its workers' memory is free again.

        Raises:
            ConfigError: see `connect`.
        """
        there = "ray" in sys.modules and sys.modules["ray"].is_initialized()
        ray = self.connect()
        try:
            yield ray
        finally:
            if not there:
                ray.shutdown()


HERE = Cluster()
"""This process alone."""
