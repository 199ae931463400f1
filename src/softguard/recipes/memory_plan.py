"""How much memory a run would take, before anything is fetched or loaded: what `distill --dry-run` says.

One idea: a process holds weights, guard, drafts and Python itself all along, and needs most beside them either while drafts are
sampled or while a step is taken (`costs.training_memory`). What is not in the cache is said to be unknown, never fetched.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

import torch

from softguard.adapters import ADAPTERS, Fitted
from softguard.costs import MEMORY_CONVENTION, ModelShape, Rows, sampling_bytes, step_bytes
from softguard.errors import CompatibilityError, SourceError
from softguard.guards import guard_sources
from softguard.models import NF4_BYTES, read_config
from softguard.models.chat import BEHIND
from softguard.objectives import OBJECTIVES
from softguard.objectives.fused_head import CHUNK_BYTES, PART_LOGITS
from softguard.recipes.config import Config, on_this_machine
from softguard.recipes.prompts import own_prompts, run_prompts
from softguard.sources import list_catalogue, resolve
from softguard.teacher.cache import SHARD_SIZE

SHIPPED = ("softguard", "softguard_pairs", "softguard_tasks")
"""Prompt sets that are in the package, so that their rows can be counted here."""
CHARACTERS = 4
"""Of English text in a token."""
SYSTEM_TURN, USER_TURN = 24, 8
"""Tokens of a chat template: those that all requests share, and those around the user's text."""
PROGRAM_BYTES = 600 * 2**20
"""What Python, PyTorch and transformers take before a model is there, and what they make once at the first step."""
_DRAFT_BYTES = 2
"""Of a number of the teacher's states, in bf16."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes.

    Attributes:
        base: weights of the base model.
        guard: weights of the guard; None where they are not known.
        drafts: the teacher's states at response positions, in memory and on disk.
        sampling: what sampling drafts needs beside these.
        step: what a training step does; 0 for an adapter that is fitted.
        rows: of a step.
        uncounted: sets whose drafts are not in `drafts`.
    """

    base: int
    guard: int | None
    drafts: int
    sampling: int
    step: int
    rows: Rows
    uncounted: Sequence[str] = ()

    @property
    def peak(self) -> int:
        """All that is known, with the larger of sampling and a step."""
        return PROGRAM_BYTES + self.base + (self.guard or 0) + self.drafts + max(self.sampling, self.step)


def memory_plan(config: Config) -> MemoryPlan:
    """Return the memory that a run would take at its peak.

    Raises:
        SourceError: the base model is not in the cache, or has no configuration.
        CompatibilityError: its shape does not decide its cost.
    """
    config = on_this_machine(config)
    shape, each = ModelShape.from_config(read_config(resolve(config.model.name, offline=True))), _number_bytes(config)
    given = tuple(name for name in config.data.sets if name.partition(":")[0] in SHIPPED)
    train = run_prompts(config.data.model_copy(update={"sets": given}), None).train
    prompts = [USER_TURN + len(r.prompt) // CHARACTERS for r in train or own_prompts("train")]
    others = {name: int(name.partition(":")[2] or config.data.max_per_set) for name in config.data.sets if name not in given}
    drafts = len(train) + config.training.drift_prompts + 3 * sum(others.values())  # a limit is on each of three labels
    drafted = config.teacher.max_new_tokens
    longest = fmean(sorted(prompts)[-SHARD_SIZE:])  # drafts are sampled in the order of their prompts' length
    rows, responses = _step_rows(config, prompts)
    return MemoryPlan(
        base=_base_bytes(config, shape, each),
        guard=_guard_bytes(config.teacher.guard, each),
        drafts=drafts * drafted * shape.width * _DRAFT_BYTES,
        sampling=sampling_bytes(shape, Rows(SHARD_SIZE, round(longest) + drafted, SYSTEM_TURN), each),
        step=_step(config, shape, rows, responses),
        rows=rows,
        uncounted=[name for name, limit in others.items() if not limit],
    )


def _step_rows(config: Config, prompts: Sequence[int]) -> tuple[Rows, int]:
    """Return what goes through the body in a step, and how many positions of it get logits; `prompts` are lengths in tokens."""
    objective = OBJECTIVES.get(config.objective.kind)(config.objective)
    drafted = config.teacher.max_new_tokens
    said = min(drafted, objective.answer_tokens or drafted) + len(config.teacher.refusal_text) // CHARACTERS
    if "on_policy" in objective.needs:
        said = config.training.on_policy_tokens
    count = config.training.batch_size
    prompt = fmean(prompts) + 2 * pstdev(prompts) / count**0.5  # few batches have a larger mean
    behind, front = _virtual_tokens(config)
    return Rows(count, round(prompt) + behind + said, SYSTEM_TURN + front), count * said


def _step(config: Config, shape: ModelShape, rows: Rows, response_positions: int) -> int:
    if issubclass(ADAPTERS.get(config.adapter.kind), Fitted):
        return 0
    return step_bytes(
        shape,
        rows,
        _number_bytes(config),
        learned=sum(_virtual_tokens(config)) * shape.width,
        response_positions=response_positions,
        chunk_bytes=CHUNK_BYTES,
        part_logits=PART_LOGITS,
        fused=config.model.attention == "sdpa",
        packed=config.model.attention not in ("sdpa", "eager") and str(config.adapter.kind) != "kv_prefix",
    )


def _virtual_tokens(config: Config) -> tuple[int, int]:
    """Return how many virtual tokens stand behind the user's text, and how many before it, where all rows share them."""
    layout = getattr(config.adapter, "layout", ())
    behind = sum(count for slot, count in layout if slot in BEHIND)
    return behind, sum(count for _, count in layout) - behind


def memory_lines(config: Config) -> list[str]:
    """Return the memory that a run would take in words, a sentence a line; what is not known is said to be so."""
    try:
        plan = memory_plan(config)
    except SourceError as error:
        return [f"its memory is not known until the model is fetched: {error}"]
    except CompatibilityError as error:
        return [f"its memory is not counted: {error}"]
    guard = "a guard whose size is not known until it is fetched" if plan.guard is None else f"guard {_size(plan.guard)}"
    rows, dtype = plan.rows, str(on_this_machine(config).model.dtype)
    if config.model.quantisation != "none":
        dtype = f"{config.model.quantisation} and {dtype}"
    drafts = f"drafts {_size(plan.drafts)}, on disk too"
    if plan.uncounted:
        drafts += f" (without those of {', '.join(plan.uncounted)}, which are not counted here)"
    held = f"base model {_size(plan.base)} in {dtype}, {guard}, {drafts}, Python and PyTorch {_size(PROGRAM_BYTES)}"
    peaks = f"{_size(plan.sampling)} while {SHARD_SIZE} drafts are sampled"
    if plan.step:
        taken = f"{rows.count} prompts, {rows.positions} positions each and {rows.shared} that they share"
        peaks += f", {_size(plan.step)} while a step is taken ({taken})"
    return [
        f"needs about {_size(plan.peak)} of memory at its peak: {held}",
        f"and beside these about {peaks}",
        MEMORY_CONVENTION,
    ]


def _base_bytes(config: Config, shape: ModelShape, number_bytes: int) -> int:
    """Return the bytes of the base model's weights; where it is quantised, its linear layers are."""
    packed = shape.body_weights if config.model.quantisation != "none" else 0
    return round(packed * NF4_BYTES + (shape.parameters - packed) * number_bytes)


def _number_bytes(config: Config) -> int:
    dtype: torch.dtype = getattr(torch, config.model.dtype)
    return dtype.itemsize


def _guard_bytes(reference: str, number_bytes: int) -> int | None:
    """Return the bytes of a guard's weights here, 0 for one behind a server or without weights; None where they are not known."""
    encoders = {entry.name: entry.size_bytes for entry in list_catalogue() if entry.role == "guard-backbone"}
    found = 0
    try:
        for source in guard_sources(reference):
            found += encoders[source] if source in encoders else _parameters(source) * number_bytes
    except (SourceError, CompatibilityError):
        return None
    return found


def _parameters(reference: str) -> int:
    return ModelShape.from_config(read_config(resolve(reference, offline=True))).parameters


def _size(number: float) -> str:
    """Return bytes in words, to two digits: no estimate is better."""
    mib = number / 2**20
    return f"{mib / 1024:.1f} GiB" if mib >= 1000 else f"{float(f'{mib:.2g}'):g} MiB"
