"""Jobs that do not depend on each other as Ray tasks, on this machine or a cluster. Ray does the scheduling; we write none."""

import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from softguard.recipes.cluster import Cluster


def on_ray(job: Callable[..., str], arguments: Mapping[str, tuple[Any, ...]], cluster: Cluster) -> Iterator[tuple[str, str]]:
    """Yield the name of each job as it ends, with what went wrong: what `job` returned, or that its process died.

    A job has a GPU for itself where the cluster has any: Ray hides them from tasks that ask for none.

    Args:
        job: returns what went wrong, empty where nothing did; it is sent to other processes, which import softguard.
        arguments: of each job, by its name.
        cluster: where they run; workers elsewhere must see the same paths and the cache.

    Raises:
        ConfigError: see `Cluster.connect`.
    """
    if not arguments:
        return
    ray = cluster.connect()
    gpus = int(ray.cluster_resources().get("GPU", 0) >= 1)
    task = ray.remote(num_cpus=cluster.threads, num_gpus=gpus, max_retries=0)(job)
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
