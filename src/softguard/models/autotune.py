"""Which attention kernel and how many threads train a model fastest here: measured once, remembered in the cache.

One idea: a training step of the model's first blocks, forwards and backwards to the virtual tokens, stands for every step, since
its blocks are alike and head and divergence do not ask which kernel attended. The choice that was made without measuring stays
unless another is clearly faster: noise must not change what a machine does. "fused" (`models.fused`) is the one that compiles
(decisions 0023 and 0028).
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from softguard.core.files import write_atomically
from softguard.core.protocols import Progress
from softguard.models.attention import FUSED, kernels_for, use_kernel
from softguard.models.hardware import machine_key, thread_counts
from softguard.models.language_model import LanguageModel
from softguard.models.scoring import response_states
from softguard.sources import cache_dir

AUTO = "auto"
WORTH = 1.1
"""How many times as fast as the first candidate another has to be: kernels round otherwise, and so have drafts of their own."""
ROUNDS = 3
"""Timings of each candidate, in turn, after a step that warms up; the least of them counts, for others may be at work here."""
DROPPED = 3.0
"""A candidate whose first step takes so many times the fastest's is not timed again."""
SECONDS = 40.0
"""No step is begun after so long; what was not tried by then is left out."""
ROWS, VIRTUAL, TEXT, ANSWER, REFUSAL = 8, 20, 68, 40, 20
"""The step: so many prompts, each of virtual tokens in front, text, and the two branches that training runs in one row."""
_AGREES = 0.05
"""Relative distance of final states up to which two kernels are the same model: bfloat16 rounds to less, a lost mask does not."""


@dataclass(frozen=True)
class Candidate:
    """Something to choose."""

    attention: str
    threads: int


@dataclass(frozen=True)
class Trial:
    """What a candidate took for the step.

    Attributes:
        attention: its kernel.
        threads: its threads.
        seconds: the least timing; None where the candidate was left out.
        note: why it was, or what is to be known of the timing.
    """

    attention: str
    threads: int
    seconds: float | None
    note: str = ""


@dataclass(frozen=True)
class Tuning:
    """What was chosen.

    Attributes:
        attention: the kernel.
        threads: the number of threads.
        trials: what it was chosen from; empty where there was nothing to choose.
        blocks: how many of the model's blocks were run.
        load: processes that were at work on the machine when it began, on the mean of a minute; None where it does not tell.
    """

    attention: str
    threads: int
    trials: tuple[Trial, ...] = ()
    blocks: int = 0
    load: float | None = None


def tune(
    lm: LanguageModel, attention: str = AUTO, threads: int = 0, *, again: bool = False, progress: Progress | None = None
) -> Tuning:
    """Return the attention kernel and the number of threads that train `lm` fastest on this machine.

    Kernels are compared with the first number of threads, numbers of threads with the kernel that won. What was measured for
    models of this shape, with these versions and candidates, is remembered; the model is left as it was.

    Args:
        lm: the base model, nothing attached.
        attention: a kernel that is not to be chosen but taken, or "auto".
        threads: a number that is taken, or 0. On an accelerator PyTorch's own is.
        again: measure even if it was measured before.
        progress: told of the steps that were taken.
    """
    kernels = kernels_for(lm.network.config) if attention == AUTO else (attention,)
    measurable = not threads and lm.device.type == "cpu"
    counts = thread_counts() if measurable else (threads or torch.get_num_threads(),)
    steps = VIRTUAL + TEXT + ANSWER + REFUSAL
    if len(kernels) * len(counts) == 1 or (lm.context is not None and lm.context < steps):
        return Tuning(kernels[0], counts[0])
    made_by = _made_by(lm, kernels, counts)
    key = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_dir() / "machine" / f"step-{machine_key()}-{key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # processes that begin together must not choose apart, nor time each other
        if again or not path.exists():
            found = _choose(lm, kernels, counts, progress)
            write_atomically(path, json.dumps({**asdict(found), "made_by": made_by}, indent=2) + "\n")
        kept = json.loads(path.read_text(encoding="utf-8"))
    trials = tuple(Trial(**trial) for trial in kept["trials"])
    return Tuning(kept["attention"], kept["threads"], trials, kept["blocks"], kept["load"])


def _made_by(lm: LanguageModel, kernels: Sequence[str], counts: Sequence[int]) -> Mapping[str, Any]:
    """Return what a choice depends on beside the machine: not the weights, so that a model's siblings share it."""
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "sliding_window")
    device = torch.cuda.get_device_name(lm.device) if lm.device.type == "cuda" else lm.device.type
    return {
        "schema": 1,
        "network": type(lm.network).__name__,
        "shape": {"width": lm.width, **{name: getattr(lm.network.config, name, None) for name in names}},
        "dtype": str(lm.dtype).removeprefix("torch."),
        "device": device,
        "kernels": list(kernels),
        "threads": list(counts),
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }


def _choose(lm: LanguageModel, kernels: Sequence[str], counts: Sequence[int], progress: Progress | None) -> Tuning:
    deadline, before = time.perf_counter() + SECONDS, (lm.attention, torch.get_num_threads())
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    phases = [len(kernels)] + [len(counts)] * (len(counts) > 1)
    total, done = sum(2 + (ROUNDS + 1) * count for count in phases), 0

    def told() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(min(done, total), total)

    try:
        with _first_blocks(lm) as blocks:
            trials = _measure(lm, [Candidate(kernel, counts[0]) for kernel in kernels], deadline, told)
            attention = _fastest(trials).attention
            if len(counts) > 1:
                others = _measure(lm, [Candidate(attention, count) for count in counts], deadline, told)
                trials = [t for t in trials if t.attention != attention] + others
        threads = _fastest([t for t in trials if t.attention == attention]).threads
    finally:
        lm.network.set_attn_implementation(before[0])
        torch.set_num_threads(before[1])
    if progress:
        progress(total, total)
    return Tuning(attention, threads, tuple(trials), blocks, load)


def _measure(lm: LanguageModel, candidates: Sequence[Candidate], deadline: float, told: Callable[[], None]) -> list[Trial]:
    """Return a trial of each candidate, in order."""
    first: dict[Candidate, float] = {}
    notes: dict[Candidate, str] = {}
    reference: Tensor | None = None
    for candidate in candidates:
        if first and time.perf_counter() > deadline:
            notes[candidate] = "no time was left"
            continue
        try:
            if not first or candidate.attention == FUSED:
                _timed_step(lm, candidate)  # what is made once in a process is no candidate's cost
                told()
            seconds, states = _timed_step(lm, candidate)
        except Exception as error:  # a kernel that there is not for this model, memory that it needs: no reason to stop a run
            notes[candidate] = f"{type(error).__name__}: {str(error)[:160]}"
            continue
        told()
        reference = states if reference is None else reference
        if not (apart := float((states - reference).norm() / reference.norm())) <= _AGREES:
            notes[candidate] = f"its states are {apart:.2g} away from those of {candidates[0].attention}"
            continue
        first[candidate] = seconds
    timings: dict[Candidate, list[float]] = {c: [] for c in first}
    for _ in range(ROUNDS):
        for candidate, seconds in first.items():
            if seconds <= DROPPED * min(first.values()) and time.perf_counter() <= deadline:
                timings[candidate].append(_timed_step(lm, candidate)[0])
                told()
    for candidate, times in timings.items():
        if not times:
            notes[candidate] = "the first step alone"
    least = {c: min(times, default=first[c]) for c, times in timings.items()}
    return [Trial(c.attention, c.threads, least.get(c), notes.get(c, "")) for c in candidates]


def _fastest(trials: Sequence[Trial]) -> Trial:
    """Return the first trial, unless the fastest beats it by `WORTH`; one that was left out is never taken before another."""
    timed = [(t.seconds, t) for t in trials if t.seconds is not None]
    if not timed:
        return trials[0]
    least, best = min(timed, key=lambda pair: pair[0])
    return best if timed[0][0] > WORTH * least else timed[0][1]


def _timed_step(lm: LanguageModel, candidate: Candidate) -> tuple[float, Tensor]:
    """Return the seconds that a step takes with a candidate, and the states that it made."""
    use_kernel(lm.network, candidate.attention)
    torch.set_num_threads(candidate.threads)
    drawn = torch.Generator().manual_seed(0)
    ids = torch.randint(0, len(lm.embedding_weight), (ROWS, TEXT + ANSWER + REFUSAL), generator=drawn).tolist()
    prompts = [[*range(-1, -VIRTUAL - 1, -1), *row[:TEXT]] for row in ids]
    responses = [row[TEXT : TEXT + ANSWER] for row in ids] + [row[TEXT + ANSWER :] for row in ids]
    virtual = torch.randn(VIRTUAL, lm.width, generator=drawn).mul_(0.02).to(lm.device).requires_grad_()
    _wait(lm)
    started = time.perf_counter()
    states = response_states(lm, prompts + prompts, responses, virtual).states
    torch.autograd.grad(states.float().square().mean(), virtual)
    _wait(lm)
    return time.perf_counter() - started, states.detach().float()


def _wait(lm: LanguageModel) -> None:
    if lm.device.type != "cpu":
        torch.accelerator.synchronize()


@contextmanager
def _first_blocks(lm: LanguageModel) -> Iterator[int]:
    """Cut the network to its first blocks for the length of a `with` block: two, and as many as show each kind of layer once."""
    config, body, blocks = lm.network.config, lm.network.base_model, lm.blocks
    kinds = list(getattr(config, "layer_types", None) or ())
    count = min(len(blocks), max([2, *(kinds.index(kind) + 1 for kind in set(kinds))]))
    name = next(name for name, child in body.named_children() if child is blocks)
    cut = {"num_hidden_layers": count, **({"layer_types": kinds[:count]} if kinds else {})}
    whole = {key: getattr(config, key) for key in cut}
    try:
        setattr(body, name, blocks[:count])
        for key, value in cut.items():
            setattr(config, key, value)
        yield count
    finally:
        setattr(body, name, blocks)
        for key, value in whole.items():
            setattr(config, key, value)
