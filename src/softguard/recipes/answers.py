"""The answers of each system in a run's evaluation: resumed after a kill, and kept for other runs where they are the same there.

Each system's answers are written to `evaluations/test/NAME.jsonl` as they are made, so that a kill loses at most one batch. Those
of systems that are the same in every run (all but the student) are kept in the cache too, by all that made them.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from softguard.core import Conversation, Reply, ReplySettings, System
from softguard.core.files import write_atomically
from softguard.core.protocols import Progress
from softguard.data import PromptRow
from softguard.models import LanguageModel
from softguard.recipes.distill import Report
from softguard.recipes.halving import in_batches
from softguard.runs import RunDir
from softguard.sources import cache_dir
from softguard.teacher import Draft, GuardedSystem

FOLDER = "evaluations/test"
BATCH = 64
STORED = 1
"""Of what is kept: raised where its making or its form changes."""
Respond = Callable[[Sequence[Conversation], Sequence[str], ReplySettings, Progress | None], Sequence[Reply]]


def guarding(teacher: GuardedSystem, rows: Sequence[PromptRow], drafts: Sequence[Reply]) -> Respond:
    """Return what answers as the guarded system, given the base model's answers to `rows`: drafts are not made twice."""
    by_id = {r.id: Draft(d.text, d.truncated) for r, d in zip(rows, drafts, strict=True)}

    def respond(
        conversations: Sequence[Conversation], ids: Sequence[str], settings: ReplySettings, progress: Progress | None = None
    ) -> list[Reply]:
        return teacher.decide(conversations, ids, [by_id[i] for i in ids], settings.seed)

    return respond


def answers(
    run: RunDir,
    name: str,
    respond: Respond,
    rows: Sequence[PromptRow],
    settings: ReplySettings,
    report: Report,
    store: Path | None,
) -> list[Reply]:
    """Return a system's replies, resuming from the file that holds those already made; `store` keeps them for other runs."""
    path = run.path / FOLDER / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    source = path if path.exists() or store is None else store
    lines = source.read_text().splitlines() if source.exists() else []
    replies = [Reply(**json.loads(line)) for line in lines if line.endswith("}")]

    def shown(before: int) -> Progress:
        return lambda done, _: report(f"answers: {name}", before + done, len(rows), {})

    shown(0)(len(replies), 0)

    def answered(part: Sequence[PromptRow]) -> Sequence[Reply]:
        return respond([r.conversation for r in part], [r.id for r in part], settings, shown(len(replies)))

    for _, made in in_batches(rows[len(replies) :], BATCH, answered):
        replies += made
        run.write_text(f"{FOLDER}/{name}.jsonl", _lines(replies))
        shown(0)(len(replies), 0)
    if source != path:
        run.write_text(f"{FOLDER}/{name}.jsonl", _lines(replies))
        shown(0)(len(replies), 0)
    if store is not None and not store.exists():
        write_atomically(store, _lines(replies))
    return replies


def store_of(
    lm: LanguageModel, system: System, rows: Sequence[PromptRow], settings: ReplySettings, refusal: str, made_by: str
) -> Path:
    """Return where the answers of a system that is the same in every run are kept, by all that made them."""
    everything = [
        STORED,
        lm.fingerprint,
        lm.attention,
        system.name,
        made_by,
        refusal,
        asdict(settings),
        [r.conversation.to_dicts() for r in rows],
    ]
    return cache_dir() / "answers" / f"{hashlib.sha256(json.dumps(everything).encode()).hexdigest()}.jsonl"


def _lines(replies: Sequence[Reply]) -> str:
    return "".join(json.dumps(asdict(r)) + "\n" for r in replies)
