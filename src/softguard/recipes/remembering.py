"""Nothing is answered, judged or drawn twice: values kept by the content that they were made of.

One idea: a value's key is a hash of what it depends on: in the folder's name what is the same for all (model, settings, adapter,
guard), in the key the conversation. So a killed evaluation goes on where it was, a larger `--limit` adds to a smaller one, shards
that share a cache are put together by the same command without `--shard`, and runs share what does not depend on them. A batch is
one file, written whole: processes may add to one folder at once. A greedy answer of low precision can depend, at a near-tie, on
which prompts shared its batch: what was said first is what is kept.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from softguard.core import Conversation, Guard, Reply, ReplySettings, Verdict
from softguard.core.files import write_atomically
from softguard.core.protocols import Progress
from softguard.core.ungraded import MAX_UNGRADED_SHARE, UngradedTally
from softguard.evaluation.judgement import Judgement
from softguard.evaluation.judges import Answered, Judge
from softguard.recipes.halving import in_batches
from softguard.recipes.student import ModelSystem
from softguard.sources import cache_dir

SCHEMA = 1
"""Of what is kept: raised where its making or its form changes."""
BATCH_ROWS, BATCH_TOKENS = 64, 2**16
"""Prompts that are answered together, at most so many and so many positions: the keys and values of a long prompt take memory."""
JUDGED_AT_ONCE = 64


def digest(*made_of: Any) -> str:
    """Return a hash of plain values."""
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


class Store:
    """Plain values by key, in a folder of the cache that is named by what they all depend on."""

    def __init__(self, kind: str, *made_by: Any) -> None:
        self._folder: Path = cache_dir() / "evaluations" / kind / digest(SCHEMA, *made_by)[:32]
        self._values: dict[str, Any] = {}
        for file in sorted(self._folder.glob("*.jsonl")):
            for line in filter(None, file.read_text(encoding="utf-8").split("\n")):
                row = json.loads(line)
                self._values[row["key"]] = row["value"]

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def add(self, values: dict[str, Any]) -> None:
        """Keep values that were made together."""
        if not values:
            return
        lines = "".join(json.dumps({"key": k, "value": v}) + "\n" for k, v in values.items())
        write_atomically(self._folder / f"{digest(sorted(values))[:32]}.jsonl", lines)
        self._values |= values


def remembered_replies(
    system: ModelSystem,
    store: Store,
    conversations: Sequence[Conversation],
    settings: ReplySettings,
    progress: Progress | None = None,
) -> list[Reply]:
    """Return the greedy answers, asking the system only for those that are not kept.

    A prompt that does not fit the model's context is not answered: its reply is ungraded and says so. Batches fit the memory
    (`halving`).
    """
    keys = [digest(c.to_dicts()) for c in conversations]
    lacking = {k: c for k, c in zip(keys, conversations, strict=True) if k not in store}
    lengths = {k: system.prompt_length(c) + settings.max_new_tokens for k, c in lacking.items()}
    context = system.context or max(lengths.values(), default=0)
    too_long = {k: length for k, length in lengths.items() if length > context}
    order = sorted(lengths.keys() - too_long.keys(), key=lambda k: (lengths[k], k))
    known = len(conversations) - len(order)

    def shown(before: int) -> Progress | None:
        return (lambda done, _: progress(known + before + done, len(conversations))) if progress else None

    if progress:
        progress(known, len(conversations))
    done = 0

    def answered(batch: Sequence[str]) -> list[Reply]:
        return system.respond([lacking[k] for k in batch], batch, settings, shown(done))

    for batch, made in in_batches(order, BATCH_ROWS, answered, lambda rest: _together(rest, lengths)):
        store.add({k: asdict(reply) for k, reply in zip(batch, made, strict=True)})
        done += len(batch)
    return [_too_long(too_long[k], context) if k in too_long else Reply(**store[k]) for k in keys]


def _together(order: Sequence[str], lengths: dict[str, int]) -> list[str]:
    """Return the first keys of `order`, which go by length, that may be answered together."""
    batch = [order[0]]
    for key in order[1:]:
        if (len(batch) + 1) * lengths[key] > BATCH_TOKENS:
            break
        batch.append(key)
    return batch


def _too_long(length: int, context: int) -> Reply:
    return Reply("", float("nan"), ungraded=f"the prompt and its answer take {length} positions of the model's {context}")


class RememberingGuard:
    """A guard that judges no pair twice. What it could not grade is asked again the next time; too much of it stops the work."""

    def __init__(self, guard: Guard, progress: Progress | None = None, max_ungraded: float = MAX_UNGRADED_SHARE) -> None:
        self._guard, self._store, self.progress = guard, Store("verdicts", guard.fingerprint), progress
        self._tally = UngradedTally(guard.name, max_ungraded)

    @property
    def name(self) -> str:
        """The guard's."""
        return self._guard.name

    @property
    def fingerprint(self) -> str:
        """The guard's."""
        return self._guard.fingerprint

    @property
    def members(self) -> tuple[Guard, ...]:
        """The guard itself."""
        return (self._guard,)

    @property
    def category_names(self) -> frozenset[str] | None:
        """The guard's categories; None where it does not say."""
        return getattr(self._guard, "category_names", None)

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        """Return the verdicts, kept or new.

        Raises:
            GuardError: too many, see `core.ungraded`, could not be graded.
        """
        keyed = [(digest(c.to_dicts()), c) for c in conversations]
        made = _judged(self._store, keyed, self._guard.judge, self._tally, lambda c: c.response, self.progress)
        return [Verdict(**value) for value in made]


def remembered_judgements(
    judge: Judge, answers: Sequence[Answered], tally: UngradedTally, progress: Progress | None = None
) -> list[Judgement]:
    """Return a judge's judgements, kept or new; what it could not grade is asked again the next time.

    Raises:
        GuardError: with what `tally` holds already, too many could not be graded.
    """
    keyed = [(digest(a.conversation.to_dicts(), a.refused), a) for a in answers]
    store = Store("judgements", judge.fingerprint)
    made = _judged(store, keyed, judge.judge, tally, lambda a: a.conversation.response, progress)
    return [Judgement(**value) for value in made]


def _judged(
    store: Store,
    keyed: Sequence[tuple[str, Any]],
    judge: Callable[[list[Any]], Sequence[Any]],
    tally: UngradedTally,
    answer_of: Callable[[Any], str],
    progress: Progress | None,
) -> list[Any]:
    """Return the plain value of every item, judging those that the store lacks, each once.

    An empty answer that has no verdict is not held against the judge: it is the system that said nothing.
    """
    tally.ask(len(keyed))
    lacking = list({k: item for k, item in keyed if k not in store}.items())
    failed: dict[str, Any] = {}
    for start in range(0, len(lacking), JUDGED_AT_ONCE):
        if progress:
            progress(len(keyed) - len(lacking) + start, len(keyed))
        part = lacking[start : start + JUDGED_AT_ONCE]
        made = dict(zip([k for k, _ in part], judge([item for _, item in part]), strict=True))
        store.add({k: asdict(v) for k, v in made.items() if v.ungraded is None})
        failed |= {k: asdict(v) for k, v in made.items() if v.ungraded is not None}
        tally.add(str(made[k].ungraded) for k, item in part if k in failed and answer_of(item).strip())
    if progress:
        progress(len(keyed), len(keyed))
    return [failed[k] if k in failed else store[k] for k, _ in keyed]
