"""Drafts of the teacher by many workers: Ray tasks that fill the one content-addressed cache, a shard each.

One idea: a shard is the same whoever makes it (its draws are keyed on its prompts), and it is in the cache once it is whole. So a
task needs the shard's prompts and gives back nothing but a count; a worker that is killed costs the shard under way, which Ray
gives to another; a job that is killed goes on with what is lacking. How a worker comes by its model and guard is the caller's.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from softguard.core import Conversation
from softguard.core.protocols import Progress
from softguard.errors import CompatibilityError, ConfigError, RuntimeProgramError, SoftguardError
from softguard.recipes.cluster import Cluster
from softguard.teacher import TeacherCache

RETRIES = 3
"""How often a shard is given to another worker after one has died."""
ARRIVAL_S = 60.0
"""How long a file of a worker may take to show here: network file systems remember for so long that it was not there."""


def fill_on_workers(
    make: Callable[..., TeacherCache],
    arguments: tuple[Any, ...],
    cache: TeacherCache,
    sets: Sequence[Sequence[Conversation]],
    cluster: Cluster,
    gpus: int = 0,
    progress: Progress | None = None,
) -> None:
    """Sample and judge what the cache lacks of the sets, each cut into shards of its own. Ray starts only if a shard is lacking.

    Args:
        make: a module's function that makes a worker's own view of the same cache, once in a process. It leaves no draft
            ungraded too many: that is counted here.
        arguments: what it takes, hashable.
        cache: this process's view.
        sets: prompts that share shards.
        cluster: where the workers are. They must see the cache under the same path.
        gpus: that a task takes for itself.
        progress: called with shards.

    Raises:
        CompatibilityError: a worker has another model, guard or kind of device, or does not see this cache.
        ConfigError: Ray is not installed, or has not what a task takes.
        GuardError: more drafts are ungraded than allowed.
        RuntimeProgramError: workers died again and again.
    """
    lacking = [cache.lacking(prompts) for prompts in sets]
    total, done = sum(map(len, lacking)), 0
    if not total:
        return
    if progress:
        progress(done, total)
    reasons: list[Counter[str]] = [Counter() for _ in sets]
    with cluster.connected() as ray:
        _check_room(ray.cluster_resources(), cluster.threads, gpus)
        task = ray.remote(num_cpus=cluster.threads, num_gpus=gpus, max_retries=RETRIES)(_fill)
        waiting: dict[Any, tuple[int, Path]] = {}
        for number, shards in enumerate(lacking):
            for stem, shard in shards.items():
                given = [c.to_dicts() for c in shard]
                waiting[task.remote(make, arguments, cache.key, os.getcwd(), given)] = (number, stem)
        try:
            while waiting:
                ready, _ = ray.wait(list(waiting), num_returns=1)
                number, stem = waiting.pop(ready[0])
                reasons[number] += _result(ray, ready[0])
                _await_file(cache, stem)
                cache.check_ungraded(reasons[number].total(), len(sets[number]), reasons[number])
                done += 1
                if progress:
                    progress(done, total)
        finally:
            for left in waiting:
                ray.cancel(left, force=True)


def _fill(
    make: Callable[..., TeacherCache],
    arguments: tuple[Any, ...],
    key: str,
    folder: str,
    conversations: Sequence[Sequence[Mapping[str, object]]],
) -> Counter[str]:
    """Fill one shard, in a worker."""
    if Path(folder).is_dir():
        os.chdir(folder)  # relative names of models and guards mean what they mean to the caller
    cache = _once(make, arguments)
    if cache.key != key:
        raise CompatibilityError(
            "workers that make the drafts of this process",
            "one with another model, guard, attention kernel or kind of device",
            "give all machines the same packages, sources and settings",
        )
    return cache.fill([Conversation.from_dicts(turns) for turns in conversations])


@lru_cache(maxsize=1)
def _once(make: Callable[..., TeacherCache], arguments: tuple[Any, ...]) -> TeacherCache:
    """Return the worker's view of the cache, its model and guard loaded for the first shard."""
    return make(*arguments)


def _result(ray: Any, task: Any) -> Counter[str]:
    """Return what a task gives, or raise what it raised."""
    try:
        counted: Counter[str] = ray.get(task)
        return counted
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SoftguardError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise RuntimeProgramError(
            f"workers that live as long as a shard takes, within {RETRIES + 1} attempts",
            f"{type(error).__name__}: {str(error)[:160]}",
            "take fewer --workers if memory is short; finished shards are kept, and the same command goes on",
        ) from error


def _await_file(cache: TeacherCache, stem: Path) -> None:
    """Return once this process sees a shard that a worker has written."""
    end = time.monotonic() + ARRIVAL_S
    while not cache.has(stem):
        if time.monotonic() > end:
            found = f"no {stem.name} here, {ARRIVAL_S:.0f} s after a worker wrote it"
            raise CompatibilityError(
                "one cache for this process and its workers", found, "set SOFTGUARD_CACHE to a shared folder"
            )
        time.sleep(0.2)


def _check_room(resources: Mapping[str, float], cores: int, gpus: int) -> None:
    """Raise where no task could ever start: Ray would wait for the machine that has room.

    Raises:
        ConfigError: it would.
    """
    for name, wanted, hint in (
        ("CPU", cores, "raise --workers: a task takes the cores of this machine over it"),
        ("GPU", gpus, "this process has one: workers on the CPU would draw otherwise"),
    ):
        there = resources.get(name, 0.0)
        if there < wanted:
            raise ConfigError(f"at least {wanted} {name} in the Ray cluster, for one task", f"{there:g}", hint)
