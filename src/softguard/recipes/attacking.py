"""White-box attacks on a run's systems: each is attacked with its own weights, prompt by prompt, and what was found is kept.

The guarded system has no gradient through its guard: it is asked what was found against the model in it, and its guard judges the
draft that this gives. A prompt that was attacked is kept by what it depends on (`remembering`): a kill loses the one at hand.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from zlib import crc32

import torch

from softguard.core import Conversation, Reply, ReplySettings
from softguard.data import PromptRow
from softguard.evaluation.attacks import ATTACKS, Attack, Budget, Found, Victim
from softguard.recipes.answers import guarding
from softguard.recipes.distill import Report
from softguard.recipes.remembering import Store, digest
from softguard.recipes.student import ModelSystem
from softguard.teacher import GuardedSystem


@dataclass(frozen=True)
class Attacked:
    """What the systems said under one attack.

    Attributes:
        shown_as: its name in tables.
        replies: by system, of every prompt.
        facts: what the summary says of it: title, source, budgets, and what was spent and reached for each system.
    """

    shown_as: str
    replies: Mapping[str, Sequence[Reply]]
    facts: Mapping[str, Any]

    @property
    def limit(self) -> str:
        """What a reader has to know, in a sentence."""
        f = self.facts
        work = f"at most {f['budget']['steps']} steps and {f['budget']['seconds']:g} s a prompt, {f['prompts']} prompts"
        against = "each system's own weights; the guarded system is asked what was found against the base model"
        cut = sum(spent["out_of_time"] for spent in f["spent"].values())
        late = f" Time ended {cut} of them." if cut else ""
        reduced = " REDUCED: less than the authors' budget, so that its success is a floor." if f["reduced"] else ""
        return f"{f['title']}: {work}, optimised against {against}.{late}{reduced}"


def attacked(
    name: str,
    systems: Mapping[str, ModelSystem],
    made_of: Mapping[str, Sequence[Any]],
    teacher: GuardedSystem | None,
    rows: Sequence[PromptRow],
    budget: Budget,
    settings: ReplySettings,
    seed: int,
    report: Report,
) -> Attacked:
    """Attack every system on every prompt.

    Args:
        name: of the attack.
        systems: by name.
        made_of: what each system's answers depend on.
        teacher: the guarded system, where it is measured; then `base` is among the systems.
        rows: harmful prompts.
        budget: for each prompt and system.
        settings: of the answers.
        seed: of the attack's draws.
        report: told of the prompts that are done.
    """
    attack: Attack = ATTACKS.get(name)
    kept: dict[str, list[dict[str, Any]]] = {}
    for system, model in systems.items():
        store = Store("attacks", name, asdict(budget), seed, *made_of[system])
        keys = [digest(row.prompt) for row in rows]
        for done, (row, key) in enumerate(zip(rows, keys, strict=True)):
            report(f"attack: {name}, {system}", done, len(rows), {})
            if key not in store:
                store.add({key: _one(attack, model, row.prompt, key, budget, settings, seed)})
        report(f"attack: {name}, {system}", len(rows), len(rows), {})
        kept[system] = [store[key] for key in keys]
    replies = {system: [Reply(**value["reply"]) for value in values] for system, values in kept.items()}
    if teacher is not None:
        asked = [Conversation.from_prompt(row.prompt + value["text"]) for row, value in zip(rows, kept["base"], strict=True)]
        decided = guarding(teacher, rows, replies["base"])(asked, [r.id for r in rows], settings, None)
        replies["guarded"] = [b if b.ungraded else g for b, g in zip(replies["base"], decided, strict=True)]
    facts = {
        "title": attack.title,
        "source": attack.source,
        "budget": asdict(budget),
        "reference": {k: v for k, v in asdict(attack.reference).items() if k != "seconds"},
        "reduced": budget.below(attack.reference),
        "prompts": len(rows),
        "spent": {system: _spent(values) for system, values in kept.items()},
    }
    return Attacked(attack.shown_as(name, budget), replies, facts)


def _one(
    attack: Attack, system: ModelSystem, request: str, key: str, budget: Budget, settings: ReplySettings, seed: int
) -> dict[str, Any]:
    """Return what is kept of one prompt: what was added where it is a text, what it took, and the answer to it."""
    room = system.prompt_length(Conversation.from_prompt(request)) + 4 * budget.tokens + settings.max_new_tokens
    if system.context is not None and room > system.context:
        lost = Reply("", float("nan"), ungraded=f"an attack on the prompt takes {room} positions of the model's {system.context}")
        return {"text": "", "reply": asdict(lost), "steps": 0, "seconds": 0.0, "reached": False, "out_of_time": False}

    def render(text: str) -> list[int]:
        return system.prompt_ids(Conversation.from_prompt(text))

    own = system.virtual_tokens
    with system.running() as lm:
        victim = Victim(lm, render, None if own is None else own.detach(), system.refusal_token, system.threshold)
        found = attack.run(victim, request, budget, crc32(f"{seed}:{key}".encode()))
    prompt, virtual = _prompt(found, render, victim)
    (reply,) = system.respond_to_ids([prompt], [key], settings, virtual)
    told = ("text", "loss_before", "loss", "steps", "seconds", "reached", "out_of_time")
    return {**{k: getattr(found, k) for k in told}, "reply": asdict(reply)}


def _prompt(found: Found, render: Callable[[str], list[int]], victim: Victim) -> tuple[list[int], torch.Tensor | None]:
    """Return the ids of the attacked prompt, and the vectors that its negative ids stand for."""
    if found.vectors is None:
        return render(found.place.request + found.text), victim.virtual_tokens
    own = found.vectors[:0] if victim.virtual_tokens is None else victim.virtual_tokens.float()
    added = [-(len(own) + k + 1) for k in range(len(found.vectors))]
    return [*found.place.before, *added, *found.place.after], torch.cat([own, found.vectors])


def _spent(values: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return means over prompts, and how many time ended."""
    n = max(1, len(values))
    means = {k: round(sum(float(v[k]) for v in values) / n, 3) for k in ("steps", "seconds", "reached")}
    return {**means, "out_of_time": sum(bool(v["out_of_time"]) for v in values)}
