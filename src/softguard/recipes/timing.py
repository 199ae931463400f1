"""Time to the first token and to the last, one request at a time, systems in turn: what the machine does meanwhile meets all.

Each system is timed twice, with all of a request computed anew and with what all requests begin with (virtual tokens in front,
system turn) cached; learned keys and values are at hand either way. The guarded system is the base model and then its guard: no
answer may be shown before it is judged.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from softguard.core import Conversation, Guard
from softguard.core.protocols import Progress
from softguard.costs import Timing
from softguard.models import LanguageModel
from softguard.models.shared_prefix import SharedPrefix
from softguard.recipes.student import ModelSystem

_LABELS = {"base": "Base model", "student": "Student", "system_prompt": "System prompt"}
_MODES = {False: "recomputed", True: "cached"}


@dataclass(frozen=True)
class Request:
    """Seconds from the ids of one prompt to the first token that may be shown, and to the last."""

    first: float
    last: float


@dataclass(frozen=True)
class _Contender:
    label: str
    against: str
    answer: Callable[[int], Request]


def time_systems(
    systems: Sequence[ModelSystem],
    guard: Guard,
    prompts: Sequence[Conversation],
    rounds: int,
    tokens: int,
    progress: Progress | None = None,
) -> list[Timing]:
    """Return the timings of `systems`, the first of them the base, and of the base with its guard.

    Args:
        systems: base first; their names are those of the rows, with the mode behind.
        guard: reads the base model's answers.
        prompts: round r takes prompt r, and begins anew where they end; two or more, to tell what they share.
        rounds: timed; one more is not.
        tokens: of each answer; tokens that would end it are taken as any other, so that all make as many.
        progress: called with (rounds done, rounds).
    """
    contenders = _contenders(systems, guard, prompts, tokens)
    names = list(contenders)
    taken: dict[str, list[Request]] = {name: [] for name in names}
    for number in range(rounds + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            request = contenders[name].answer(number % len(prompts))
            if number:
                taken[name].append(request)
        if progress:
            progress(number, rounds)
    return [_timing(name, contenders, taken, tokens) for name in names]


def _contenders(
    systems: Sequence[ModelSystem], guard: Guard, prompts: Sequence[Conversation], tokens: int
) -> Mapping[str, _Contender]:
    found: dict[str, _Contender] = {}
    base = systems[0].name
    for cached, mode in _MODES.items():
        for system in systems:
            label = f"{_LABELS.get(system.name, system.name)}, {mode}"
            found[f"{system.name}_{mode}"] = _Contender(
                label, f"{base}_{mode}", _answering(system, prompts, cached, tokens, None)
            )
        judged = _answering(systems[0], prompts, cached, tokens, guard)
        found[f"guarded_{mode}"] = _Contender(f"Guarded by {guard.name}, {mode}", f"{base}_{mode}", judged)
    return found


def _answering(
    system: ModelSystem, prompts: Sequence[Conversation], cached: bool, tokens: int, guard: Guard | None
) -> Callable[[int], Request]:
    ids = [system.prompt_ids(p) for p in prompts]
    with torch.inference_mode(), system.running() as lm:
        prefix = SharedPrefix.run(lm, ids if cached else (), system.virtual_tokens)

    def run(index: int) -> Request:
        with system.running() as lm:  # a device attaches once, so no request pays for it
            started = time.perf_counter()
            first, said = decode(lm, ids[index], prefix, tokens, system.virtual_tokens)
            if guard is not None:
                guard.judge([prompts[index].with_response(system.renderer.decode(said))])
                first = time.perf_counter()
            return Request(first - started, time.perf_counter() - started)

    return run


@torch.inference_mode()
def decode(
    lm: LanguageModel, ids: Sequence[int], prefix: SharedPrefix, tokens: int, virtual_tokens: Tensor | None
) -> tuple[float, list[int]]:
    """Return when the first token was there (`time.perf_counter`), and all tokens, the likeliest each."""
    cache = prefix.cache(lm, 1)
    embeds = lm.embed(torch.tensor([list(ids[prefix.ids :])], device=lm.device), virtual_tokens)
    said: list[int] = []
    first = 0.0
    for _ in range(tokens):
        states = lm.body(inputs_embeds=embeds, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
        token = lm.head(states).argmax(-1)
        said.append(int(token))
        first = first or time.perf_counter()
        embeds = lm.embed(token[:, None])
    return first, said


def _timing(name: str, contenders: Mapping[str, _Contender], taken: Mapping[str, Sequence[Request]], tokens: int) -> Timing:
    one = contenders[name]
    own, other = taken[name], taken[one.against]
    return Timing(
        system=name,
        label=one.label,
        first_token_ms=1000 * median(r.first for r in own),
        tokens_per_second=median(tokens / r.last for r in own),
        first_token_ratio=median(a.first / b.first for a, b in zip(own, other, strict=True)),
        answer_ratio=median(a.last / b.last for a, b in zip(own, other, strict=True)),
        first_token_rounds_ms=[round(1000 * r.first, 3) for r in own],
        answer_rounds_ms=[round(1000 * r.last, 3) for r in own],
    )
