"""Jobs that do not depend on each other as Ray tasks, on this machine or a cluster. Ray does the scheduling; we write none."""

import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from softguard.errors import ConfigError


def threads_each(workers: int) -> int:
    """Return how many of this machine's cores each of so many workers has."""
    return max(1, (os.cpu_count() or 1) // workers)


def on_ray(
    job: Callable[..., str], arguments: Mapping[str, tuple[Any, ...]], workers: int, address: str | None
) -> Iterator[tuple[str, str]]:
    """Yield the name of each job as it ends, with what went wrong: what `job` returned, or that its process died.

    Args:
        job: returns what went wrong, empty where nothing did; it is sent to other processes, which import softguard.
        arguments: of each job, by its name.
        workers: jobs at a time on this machine; its cores are shared out among them.
        address: a Ray cluster (`auto`, `ray://HOST:10001`); its workers must see the same paths and the cache.

    Raises:
        ConfigError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "Ray, for several workers or a cluster", "it is not installed", "pip install 'softguard[study]'"
        ) from error
    if not arguments:
        return
    threads = threads_each(workers)
    kept = {k: v for k, v in os.environ.items() if k.startswith("SOFTGUARD_")} | {"OMP_NUM_THREADS": str(threads)}
    if not ray.is_initialized():
        local = {} if address else {"num_cpus": workers * threads, "include_dashboard": False}
        ray.init(address=address, runtime_env={"env_vars": kept}, log_to_driver=False, configure_logging=False, **local)
    task = ray.remote(num_cpus=threads, max_retries=0)(job)
    waiting: dict[Any, str] = {task.remote(*given): name for name, given in arguments.items()}
    while waiting:
        done, _ = ray.wait(list(waiting), num_returns=1)
        name = waiting.pop(done[0])
        try:
            yield name, str(ray.get(done[0]))
        except ray.exceptions.RayError as error:  # the process died: out of memory, a lost node
            yield name, f"{type(error).__name__}: {str(error)[:300]}"


def what_went_wrong(error: Exception) -> str:
    """Return an error in a line, with the place where it arose."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
