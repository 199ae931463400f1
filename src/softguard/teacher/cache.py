"""The content-addressed cache of teacher records: drafts by model and settings, verdicts beside them by guard.

One idea: prompts are cut into shards in an order of their own, and a shard is found again by its very prompts: what is drawn
depends on the model, the settings and the shard, never on what the cache held before, so that the same config gives the same
drafts bit for bit (low-precision sampling does depend on which rows share a batch). Runs with the same prompts share drafts, and
another guard judges the drafts that are there. The JSON of a shard is written last: a kill loses at most one shard, and
processes may fill one cache together. A guard that computes elsewhere than the model judges one shard, drawn and written, while
the next is being drawn: what it is given, and in which order, is the same.

Layout: `DIR/KEY/settings.json`, `shard-NAME.safetensors` (states), `shard-NAME.json` (drafts), `shard-NAME.GUARD.json`
(verdicts), `shard-NAME.refusal-TEXT.json` (log p(y_r|x), where an objective asked for it).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from softguard.core import Conversation, Verdict
from softguard.core.files import write_atomically
from softguard.core.protocols import Progress
from softguard.core.ungraded import MAX_UNGRADED_SHARE, stop_where_ungraded
from softguard.models import Generation, sample
from softguard.teacher.guarded_system import GuardedSystem
from softguard.teacher.record import TeacherRecord
from softguard.teacher.scoring import response_log_probs

SHARD_SIZE = 128


@dataclass(frozen=True)
class TeacherSettings:
    """How drafts are drawn: temperature 1 is the method's p(y|x); greedy drafts would sharpen the student."""

    max_new_tokens: int = 48
    temperature: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class _Judging:
    """A shard whose drafts are written; `verdicts` returns the guard's by prompt key, waiting for them where it must."""

    stem: Path
    conversations: dict[str, Conversation]
    drafts: Sequence[dict[str, Any]]
    verdicts: Callable[[], dict[str, dict[str, Any]]]


class DraftSource(Protocol):
    """Where drafts come from, if not from the model in this process."""

    @property
    def described(self) -> Mapping[str, Any]:
        """What the drafts depend on, as JSON: part of the cache's key."""
        ...

    def draw(
        self,
        system: GuardedSystem,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[str],
        settings: TeacherSettings,
        progress: Progress | None,
    ) -> list[Generation]:
        """Return a draft for each prompt with its states and log-probability, in order; see `models.sample`."""
        ...


@dataclass(frozen=True)
class Retokenised(Generation):
    """A draft that came as text: its ids are those of the text, which may not be the ones that were drawn."""


class TeacherCache:
    """The records of one guarded system with one set of settings.

    Args:
        root: the folder of all teacher caches.
        system: the teacher.
        settings: of the drafts.
        max_ungraded: largest share of prompts that the guard may leave ungraded.
        shard_size: prompts sampled, judged and written together.
        refusal_log_probs: give the records log p(y_r|x) as well, a forward pass for each prompt.
        ask_again: have the guard judge drafts that it left ungraded before.
        overlap: let the guard judge, in a thread of its own, while the next shard is drawn. By default where the two do not
            compete: the model is on an accelerator, or the guard is `remote`. On one processor each would wait for the other's
            threads.
        drafts: who draws them; None is the system's model.
    """

    def __init__(
        self,
        root: Path,
        system: GuardedSystem,
        settings: TeacherSettings,
        max_ungraded: float = MAX_UNGRADED_SHARE,
        shard_size: int = SHARD_SIZE,
        refusal_log_probs: bool = False,
        ask_again: bool = True,
        overlap: bool | None = None,
        drafts: DraftSource | None = None,
    ) -> None:
        apart = system.lm.device.type != "cpu" or bool(getattr(system.guard, "remote", False))
        self._overlap = apart if overlap is None else overlap
        self._system, self._settings = system, settings
        self._max_ungraded, self._shard_size, self._with_refusals = max_ungraded, shard_size, refusal_log_probs
        self._ask_again, self._drafts = ask_again, drafts
        self._reasons: Counter[str] = Counter()
        made_by = {
            "schema": 3,
            "model": system.lm.fingerprint,
            "settings": asdict(settings),
            "device": system.lm.device.type,
            "attention": system.lm.attention,
            **({"drafts": dict(drafts.described)} if drafts else {}),
        }
        described = json.dumps(made_by, indent=2, sort_keys=True)
        self._folder = root / _digest(described)
        self._guard = _digest(system.guard.fingerprint)[:12]
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._folder / "settings.json", described)

    @property
    def key(self) -> str:
        """What names the drafts and verdicts of this cache: equal where model, settings, kind of device and guard are."""
        return f"{self._folder.name}/{self._guard}"

    def records(
        self, ids: Sequence[str], conversations: Sequence[Conversation], progress: Progress | None = None
    ) -> list[TeacherRecord]:
        """Return the record of every prompt in order, sampling and judging what is not in the cache yet.

        Prompts that the guard leaves ungraded are left out.

        Raises:
            GuardError: more prompts are ungraded than allowed.
        """
        keys = [_digest(json.dumps(c.to_dicts())) for c in conversations]
        records = self._of_shards(keys, conversations, progress)
        return [replace(record, id=i) for i, k in zip(ids, keys, strict=True) if (record := records[k]) is not None]

    def fill(
        self, conversations: Sequence[Conversation], index: int = 0, of: int = 1, progress: Progress | None = None
    ) -> Counter[str]:
        """Sample and judge what the cache lacks of every `of`-th shard from the `index`-th on: one process's part of the work.

        Returns:
            Why drafts of these shards are ungraded, with how many for each reason.

        Raises:
            GuardError: see `records`.
        """
        before = self._reasons.copy()
        self._of_shards([_digest(json.dumps(c.to_dicts())) for c in conversations], conversations, progress, index, of)
        return self._reasons - before

    def lacking(self, conversations: Sequence[Conversation]) -> dict[Path, list[Conversation]]:
        """Return the shards that the cache does not hold whole, by the stem of their files: filled alone, each is the same."""
        by_key = {_digest(json.dumps(c.to_dicts())): c for c in conversations}
        stems = {self._stem(shard): [by_key[k] for k in shard] for shard in self._cut(by_key)}
        return {stem: shard for stem, shard in stems.items() if not self.has(stem)}

    def has(self, stem: Path) -> bool:
        """Return whether a shard is there, drawn and judged."""
        ends = (".safetensors", ".json", f".{self._guard}.json")
        return all(stem.with_suffix(end).exists() for end in ends) and not (
            self._with_refusals and not self._refusal_file(stem).exists()
        )

    def _of_shards(
        self,
        keys: Sequence[str],
        conversations: Sequence[Conversation],
        progress: Progress | None,
        first: int = 0,
        every: int = 1,
    ) -> dict[str, TeacherRecord | None]:
        """Return the records of every `every`-th shard by prompt key, None where ungraded."""
        by_key = dict(zip(keys, conversations, strict=True))
        shards = self._cut(by_key)[first::every]
        done, total = 0, sum(len(shard) for shard in shards)
        records: dict[str, TeacherRecord | None] = {}
        judging: list[_Judging] = []

        def collect() -> None:
            if judging:
                records.update(self._judged(judging.pop()))
                self._stop_where_ungraded(keys, records)

        with ThreadPoolExecutor(1) as worker:
            for shard in shards:
                if progress:
                    progress(done, total)
                asked = {k: by_key[k] for k in shard}
                stem = self._drawn(asked, partial(_within, progress, done, total) if progress else None)
                done += len(shard)
                collect()  # before another is begun: a guard that is gone is asked once
                drafts = json.loads(stem.with_suffix(".json").read_text())
                judge = partial(self._verdicts, stem, asked, drafts)
                judging.append(_Judging(stem, asked, drafts, worker.submit(judge).result if self._overlap else judge))
                if not self._overlap:
                    collect()
            collect()
        if progress:
            progress(total, total)
        return records

    def _cut(self, by_key: Mapping[str, Conversation]) -> list[list[str]]:
        """Return the keys in shards. Prompts of like length share one, so that its batches are tight."""
        order = sorted(by_key, key=lambda k: (len(by_key[k].prompt), k))
        return [order[i : i + self._shard_size] for i in range(0, len(order), self._shard_size)]

    def _stem(self, keys: Sequence[str]) -> Path:
        return self._folder / f"shard-{_digest(''.join(keys))[:16]}"

    def _stop_where_ungraded(self, keys: Sequence[str], records: dict[str, TeacherRecord | None]) -> None:
        self.check_ungraded(sum(records.get(k, True) is None for k in keys), len(keys), self._reasons)

    def check_ungraded(self, ungraded: int, of: int, reasons: Counter[str]) -> None:
        """Raise as soon as more drafts are ungraded than allowed of all: a guard that is gone must not cost the other drafts.

        Raises:
            GuardError: they are.
        """
        todo = "check the guard; what is done is kept"
        stop_where_ungraded(ungraded, of, reasons, "drafts", todo, self._max_ungraded, few=0)

    def _drawn(self, conversations: dict[str, Conversation], progress: Progress | None) -> Path:
        """Return the stem of a shard's files; its drafts are drawn and written where the cache lacks them."""
        keys = list(conversations)
        stem = self._stem(keys)
        if not stem.with_suffix(".json").exists():
            self._write_drafts(stem, keys, list(conversations.values()), progress)
        return stem

    def _judged(self, shard: "_Judging") -> dict[str, TeacherRecord | None]:
        """Return a shard's records by prompt key, None where ungraded; what the guard raised is raised here."""
        verdicts = shard.verdicts()
        keys, conversations = list(shard.conversations), list(shard.conversations.values())
        refusals = self._refusals(shard.stem, keys, conversations) if self._with_refusals else {}
        out: dict[str, TeacherRecord | None] = {}
        with safe_open(shard.stem.with_suffix(".safetensors"), "pt") as file:
            for number, draft in enumerate(shard.drafts):
                verdict = verdicts[draft["key"]]
                out[draft["key"]] = None
                if verdict["alpha"] is None:
                    self._reasons[str(verdict["ungraded"])] += 1
                if verdict["alpha"] is not None:
                    said = Verdict(verdict["alpha"], verdict["categories"])
                    weighed = self._system.weigh_verdict(shard.conversations[draft["key"]], draft["text"], said)
                    out[draft["key"]] = TeacherRecord(
                        id=draft["key"],
                        response_ids=tuple(draft["ids"]),
                        response=draft["text"],
                        truncated=draft["truncated"],
                        alpha=weighed.alpha,
                        categories=verdict["categories"],
                        log_prob=draft["log_prob"],
                        states=file.get_tensor(str(number)),
                        refusal_log_prob=refusals.get(draft["key"]),
                        outcomes=weighed.outcomes,
                    )
        return out

    def _write_drafts(
        self, stem: Path, keys: Sequence[str], conversations: Sequence[Conversation], progress: Progress | None
    ) -> None:
        """Sample one shard with its states, and write it."""
        system, settings = self._system, self._settings
        prompts = [system.renderer.render(c).ids for c in conversations]
        drafts = (
            self._drafts.draw(system, prompts, keys, settings, progress)
            if self._drafts
            else sample(
                system.lm,
                prompts,
                keys,
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                seed=settings.seed,
                refusal_token=system.refusal_token,
                keep_states=True,
                progress=progress,
            )
        )
        states: dict[str, Tensor] = {}
        rows: list[dict[str, Any]] = []
        for number, (key, draft) in enumerate(zip(keys, drafts, strict=True)):
            assert draft.states is not None
            states[str(number)] = draft.states.to(torch.bfloat16).cpu()
            text = system.renderer.decode(draft.ids)
            rows.append({"key": key, "ids": draft.ids, "text": text, "truncated": draft.truncated, "log_prob": draft.log_prob})
            if isinstance(draft, Retokenised):
                rows[-1]["retokenised"] = True
        write_atomically(stem.with_suffix(".safetensors"), lambda path: save_file(states, path))
        write_atomically(stem.with_suffix(".json"), json.dumps(rows))

    def _refusals(self, stem: Path, keys: Sequence[str], conversations: Sequence[Conversation]) -> dict[str, float]:
        """Return log p(y_r|x) by prompt key, scored where the cache lacks it."""
        system = self._system
        path = self._refusal_file(stem)
        if not path.exists():
            prompts = [system.renderer.render(c).ids for c in conversations]
            found = response_log_probs(system.lm, prompts, [self._refusal] * len(prompts))
            write_atomically(path, json.dumps(dict(zip(keys, found, strict=True))))
        scored: dict[str, float] = json.loads(path.read_text())
        return scored

    @property
    def _refusal(self) -> list[int]:
        """The ids of y_r."""
        return [*self._system.renderer.encode_response(self._system.refusal_text), self._system.lm.turn_end_id]

    def _refusal_file(self, stem: Path) -> Path:
        return stem.with_suffix(f".refusal-{_digest(json.dumps(self._refusal))[:12]}.json")

    def _verdicts(
        self, stem: Path, conversations: dict[str, Conversation], drafts: Sequence[dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """Return the guard's verdicts by prompt key, judging drafts that have none or, if asked again, were left ungraded."""
        path = stem.with_suffix(f".{self._guard}.json")
        verdicts: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
        done = {k for k, v in verdicts.items() if v["alpha"] is not None or not self._ask_again}
        lacking = {d["key"]: d["text"] for d in drafts if d["key"] not in done}
        if lacking:
            judged = self._system.guard.judge([conversations[k].with_response(text) for k, text in lacking.items()])
            for key, v in zip(lacking, judged, strict=True):
                verdicts[key] = {"alpha": v.p_safe, "categories": dict(v.categories), "ungraded": v.ungraded}
                if v.truncated:
                    verdicts[key]["judged_in_part"] = True
            write_atomically(path, json.dumps(verdicts))
        return verdicts


def _within(progress: Progress, before: int, total: int, done: int, _: int) -> None:
    progress(before + done, total)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
