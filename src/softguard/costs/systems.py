"""The rows of the cost table: one system each, from a model's shape, the positions that are added, and the guard."""

from collections.abc import Sequence
from dataclasses import dataclass

from softguard.costs.counting import Added, Flops, request_flops
from softguard.costs.guard_work import GuardWork
from softguard.costs.results import CONTEXTS, SystemCosts, TokenFlops
from softguard.costs.shape import ModelShape


@dataclass(frozen=True)
class Numbers:
    """How numbers are held: bytes for each weight of the base, for each key and value, and for each number of the adapter."""

    weight: float = 2.0
    cache: float = 2.0
    adapter: float = 4.0


def system_costs(
    shape: ModelShape,
    *,
    student: Added,
    adapter_parameters: int,
    system_prompt: Added,
    guard: GuardWork | None,
    guard_name: str,
    answer_tokens: int,
    numbers: Numbers,
    contexts: Sequence[int] = CONTEXTS,
) -> list[SystemCosts]:
    """Return the rows: base, guarded system, a guard of the model's size apart, student and system prompt twice.

    Args:
        shape: of the base model.
        student: what the adapter adds.
        adapter_parameters: numbers that it learned.
        system_prompt: positions that the hard system prompt adds to a request.
        guard: of the guarded system; None where its cost is not known, or where there is none to name.
        guard_name: in the label; empty leaves the row out.
        answer_tokens: of a request, at most half of it; the guard reads the rest as the prompt.
        numbers: bytes.
        contexts: tokens of a request.
    """

    def alone(system: str, label: str, added: Added, own: int, cached: bool, note: str = "") -> SystemCosts:
        flops = {c: request_flops(shape, c, added, cached=cached) for c in contexts}
        return SystemCosts(
            system=system,
            label=label,
            parameters=shape.parameters + own,
            weights_bytes=round(shape.parameters * numbers.weight + own * numbers.adapter),
            cache_bytes={c: round(shape.cache_numbers(c + added.total) * numbers.cache) for c in contexts},
            flops=_per_token(flops),
            note=note,
        )

    def guarded(system: str, label: str, work: GuardWork, note: str) -> SystemCosts:
        base = alone("base", "", Added(), 0, cached=False)
        flops, cache = {}, {}
        for c in contexts:
            answer = min(answer_tokens, c // 2)
            flops[c] = request_flops(shape, c, Added(), cached=False) + work.flops(c - answer, answer)
            read = max(work.passes(c - answer, answer), default=0) if work.keeps_cache else 0
            cache[c] = base.cache_bytes[c] + round(work.shape.cache_numbers(read) * numbers.cache)
        return SystemCosts(
            system=system,
            label=label,
            parameters=base.parameters + work.shape.parameters,
            weights_bytes=base.weights_bytes + round(work.shape.parameters * work.bytes_per_weight),
            cache_bytes=cache,
            flops=_per_token(flops),
            note=note,
        )

    rows = [alone("base", "Base model", Added(), 0, cached=False)]
    if guard is not None and guard_name:
        rows.append(guarded("guarded", f"Guarded by {guard_name}", guard, _reads(guard, answer_tokens, contexts)))
    large = GuardWork.of_size(shape, numbers.weight)
    as_paper = "not this run's guard: a language model of the base's size that reads prompt and answer once, as in the paper"
    rows.append(guarded("guarded_model_size", "Guarded, guard as large", large, as_paper))
    kept = f"{student.front + student.held} of its {student.total} positions are kept"
    rows += [
        alone("student_recomputed", "Student, recomputed", student, adapter_parameters, cached=False),
        alone("student_cached", "Student, front cached", student, adapter_parameters, cached=True, note=kept),
        alone("system_prompt_recomputed", "System prompt, recomputed", system_prompt, 0, cached=False),
        alone("system_prompt_cached", "System prompt, cached", system_prompt, 0, cached=True),
    ]
    return rows


def _per_token(flops: dict[int, Flops]) -> list[TokenFlops]:
    return [TokenFlops.of(c, f.over(c)) for c, f in flops.items()]


def _reads(guard: GuardWork, answer_tokens: int, contexts: Sequence[int]) -> str:
    """Return what of a long request a guard passes over: where its passes stop growing, it does not judge the rest."""
    longest = max(contexts)
    passes = guard.passes(longest - answer_tokens, answer_tokens)
    if not passes or max(passes) >= longest:
        return ""
    return f"reads at most {max(passes)} positions at a time: what is beyond costs nothing and is not judged"
