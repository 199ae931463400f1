"""`costs`: what the systems of a run, or of a model's configuration alone, cost a device; counted, and for a run timed too.

`evaluate` takes its three cost columns from here, so that both count alike.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from softguard.core import Conversation, Guard, System
from softguard.costs import (
    CONTEXTS,
    Added,
    CostReport,
    GuardWork,
    ModelShape,
    Numbers,
    Timing,
    system_costs,
)
from softguard.costs.counting import extra_per_generated_token, generated_token_flops
from softguard.costs.published import published_models
from softguard.costs.results import REFERENCE_CONTEXT
from softguard.data import PromptRow
from softguard.errors import ConfigError
from softguard.evaluation import metrics
from softguard.evaluation.results import MetricValue
from softguard.guards import load_guard
from softguard.models import LanguageModel, held_bytes, processor_name
from softguard.recipes.distill import LoadedRun, Report, load_run
from softguard.recipes.prompts import own_prompts
from softguard.recipes.student import ModelSystem
from softguard.recipes.timing import time_systems
from softguard.teacher import GuardedSystem

_COSTS = {"added_parameters": "count", "added_memory_mib": "MiB", "extra_compute": "ratio"}
_LIMITS = (
    f"Counted for requests of up to {max(CONTEXTS)} tokens, whether or not the model takes as many.",
    "Operations are not seconds: decoding waits for memory, reading a prompt for products.",
    "A guard's own tokenizer may cut a text into more or fewer tokens; here it is taken to make as many as the base model's.",
)
_TIMED = (
    "One request at a time, greedy, {tokens} tokens whatever they say; {rounds} rounds, a benign prompt of our test split in "
    "each, systems in turn. The guarded system may show nothing before its guard has read the whole answer. Ratios are to the "
    "base model of the same round and mode; cached is what all requests begin with, virtual tokens in front and system turn."
)


def added_by(system: ModelSystem, lm: LanguageModel) -> Added:
    """Return what a system adds to a request; positions are told apart by what two requests begin with alike."""
    requests = [Conversation.from_prompt(text) for text in ("a", "b")]
    own, plain = ([one.prompt_ids(r) for r in requests] for one in (system, ModelSystem("plain", lm)))
    alike = [next(i for i, (x, y) in enumerate(zip(*ids, strict=False)) if x != y) for ids in (own, plain)]
    front = alike[0] - alike[1]
    with system.running() as student:
        held = student.prefix_positions
    weights = system.adapter.weights_per_token if system.adapter else 0
    return Added(front, len(own[0]) - len(plain[0]) - front, held, weights)


def added_costs(
    system: System, lm: LanguageModel, guard: Guard | None, rows: Sequence[PromptRow], answer_tokens: int
) -> dict[str, MetricValue]:
    """Return what a system adds to the base: numbers held, memory, and compute per generated token over the base model's.

    The convention is `costs.CONVENTION`, for a generated token that attends to 512 positions. Added positions in front of the
    user's text are taken to be cached: they cost each generated token its attention to them and no more. Those after it are read
    anew for each request, as a guard reads prompt and answer: that work is spread over an answer of `answer_tokens`. What is not
    known of a guard is not measured.

    Args:
        guard: of the guarded system.
        rows: the prompts, for their length.
        answer_tokens: length of an answer: the longer, the less a request's own work weighs.
    """
    shape = ModelShape.of(lm.network)
    base = generated_token_flops(shape, REFERENCE_CONTEXT).total
    render = ModelSystem("plain", lm).prompt_ids
    note = f"counted, context {REFERENCE_CONTEXT}, answers of {answer_tokens} tokens"
    found: dict[str, MetricValue] = {name: metrics.not_measured(unit, "its size is not known") for name, unit in _COSTS.items()}

    def known(name: str, figure: float, note: str = "") -> None:
        found[name] = metrics.exact_value(float(figure), _COSTS[name], note)

    if isinstance(system, ModelSystem):
        added = added_by(system, lm)
        held = system.adapter.num_parameters if system.adapter else 0
        prompt = float(np.mean([len(render(r.conversation)) for r in rows]))
        extra = extra_per_generated_token(shape, REFERENCE_CONTEXT, added, prompt, answer_tokens)
        known("added_parameters", held)
        known("added_memory_mib", (held * 4 + shape.cache_numbers(added.total) * lm.dtype.itemsize) / 2**20)
        known("extra_compute", extra / base, note)
    elif isinstance(system, GuardedSystem) and guard is not None:
        size: int | None = getattr(guard, "num_parameters", None)
        work = GuardWork.of(guard)
        if size is not None:
            known("added_parameters", size)
            known("added_memory_mib", size * (work.bytes_per_weight if work else 4) / 2**20)
        if work is not None:
            reads = [len(system.renderer.encode_response(r.prompt)) for r in rows]
            extra = float(np.mean([work.flops(tokens, answer_tokens).total for tokens in reads])) / answer_tokens
            known("extra_compute", extra / base, note)
    return found


def run_costs(path: Path, rounds: int, answer_tokens: int, report: Report) -> CostReport:
    """Return the costs of a run's systems, timed in `rounds` rounds (0: counted only) with answers of so many tokens."""
    loaded = load_run(path)
    lm, config = loaded.lm, loaded.config
    torch.set_num_threads(min(config.model.threads or torch.get_num_threads(), os.cpu_count() or 1))
    guard = load_guard(config.teacher.guard)
    work = GuardWork.of(guard)
    student, prompted = loaded.student(), _prompted(loaded)
    added = {s.name: added_by(s, lm) for s in (student, prompted)}
    each = held_bytes(lm.network) / lm.num_parameters()
    numbers = Numbers(weight=each, cache=lm.dtype.itemsize)
    timings: list[Timing] = []
    if rounds:
        prompts = [r.conversation for r in own_prompts("test") if r.label == "benign"][: max(2, rounds)]
        base = ModelSystem("base", lm, refusal_text=config.teacher.refusal_text)
        timings = time_systems(
            [base, student, prompted], guard, prompts, rounds, answer_tokens, lambda done, of: report("timing", done, of, {})
        )
    unknown = () if work else (f"The guard {guard.name} does not say what its passes cost: the guarded system is not counted.",)
    return CostReport(
        model=lm.reference,
        weight_bits=round(8 * each, 2),
        answer_tokens=answer_tokens,
        added={name: asdict(a) for name, a in added.items()},
        systems=system_costs(
            ModelShape.of(lm.network),
            student=added["student"],
            adapter_parameters=loaded.adapter.num_parameters,
            system_prompt=added["system_prompt"],
            guard=work,
            guard_name=guard.name,
            answer_tokens=answer_tokens,
            numbers=numbers,
        ),
        timed=_TIMED.format(tokens=answer_tokens, rounds=rounds) if rounds else "",
        timings=timings,
        provenance={
            "processor": processor_name(),
            "threads": torch.get_num_threads(),
            "dtype": str(lm.dtype).removeprefix("torch."),
            "versions": {p: version(p) for p in ("softguard", "torch", "transformers")},
        },
        limits=[*_LIMITS, *unknown],
    )


def config_costs(
    name_or_file: str, *, virtual_tokens: int, system_tokens: int, weight_bits: float, answer_tokens: int
) -> CostReport:
    """Return the costs of a model of which only the configuration is known: counted, with a guard of its own size.

    Args:
        name_or_file: one of the paper's models by name, or a Hugging Face `config.json`.
        virtual_tokens: of a soft prompt in front.
        system_tokens: of a hard system prompt.
        weight_bits: per weight of the base; keys and values are held in 16.
        answer_tokens: of a request.

    Raises:
        ConfigError: neither a name nor a file.
    """
    named = {m.name: m for m in published_models()}
    path = Path(name_or_file)
    if name_or_file in named:
        label, shape = named[name_or_file].label, ModelShape.from_config(named[name_or_file].config)
    elif path.is_file() or (path / "config.json").is_file():
        label, shape = str(path), ModelShape.from_file(path if path.is_file() else path / "config.json")
    else:
        todo = "name one of these, a Hugging Face config.json, or a folder with one"
        raise ConfigError(f"a model among {', '.join(named)}, or a config.json", repr(name_or_file), todo)
    added = {"student": Added(front=virtual_tokens), "system_prompt": Added(front=system_tokens)}
    return CostReport(
        model=label,
        weight_bits=weight_bits,
        answer_tokens=answer_tokens,
        added={name: asdict(a) for name, a in added.items()},
        systems=system_costs(
            shape,
            student=added["student"],
            adapter_parameters=virtual_tokens * shape.width,
            system_prompt=added["system_prompt"],
            guard=None,
            guard_name="",
            answer_tokens=answer_tokens,
            numbers=Numbers(weight=weight_bits / 8),
        ),
        limits=_LIMITS[:-1],
    )


def _prompted(loaded: LoadedRun) -> ModelSystem:
    config = loaded.config
    return ModelSystem(
        "system_prompt",
        loaded.lm,
        system_prompt=config.evaluation.system_prompt,
        refusal_text=config.teacher.refusal_text,
    )
