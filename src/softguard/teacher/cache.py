"""The content-addressed cache of teacher records: drafts by model and settings, verdicts beside them by guard.

One idea: a draft depends on the model, the settings and its own prompt, never on the other prompts or on the guard. So runs
that share prompts share drafts, and another guard judges the drafts that are there. Work is kept in shards; the JSON of a
shard is written last, and a kill loses at most one shard.

Layout: `DIR/KEY/settings.json`, `shard-NAME.safetensors` (states), `shard-NAME.json` (drafts), `shard-NAME.GUARD.json`
(verdicts).
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from softguard.core import Conversation
from softguard.core.protocols import Progress
from softguard.errors import GuardError
from softguard.models import response_states, sample
from softguard.teacher.guarded_system import GuardedSystem
from softguard.teacher.record import TeacherRecord

SHARD_SIZE = 128


@dataclass(frozen=True)
class TeacherSettings:
    """How drafts are drawn: temperature 1 is the method's p(y|x); greedy drafts would sharpen the student."""

    max_new_tokens: int = 48
    temperature: float = 1.0
    seed: int = 0


class TeacherCache:
    """The records of one guarded system with one set of settings.

    Args:
        root: the folder of all teacher caches.
        system: the teacher.
        settings: of the drafts.
        max_ungraded: largest share of prompts that the guard may leave ungraded.
        shard_size: prompts sampled, judged and written together.
    """

    def __init__(
        self,
        root: Path,
        system: GuardedSystem,
        settings: TeacherSettings,
        max_ungraded: float = 0.01,
        shard_size: int = SHARD_SIZE,
    ) -> None:
        self._system, self._settings = system, settings
        self._max_ungraded, self._shard_size = max_ungraded, shard_size
        made_by = {"schema": 2, "model": system.lm.fingerprint, "settings": asdict(settings)}
        described = json.dumps(made_by, indent=2, sort_keys=True)
        self._folder = root / _digest(described)
        self._guard = _digest(system.guard.fingerprint)[:12]
        self._folder.mkdir(parents=True, exist_ok=True)
        _write_atomically(self._folder / "settings.json", lambda path: path.write_text(described))

    def records(
        self, ids: Sequence[str], conversations: Sequence[Conversation], progress: Progress | None = None
    ) -> list[TeacherRecord]:
        """Return the record of every prompt in order, sampling and judging what is not in the cache yet.

        Prompts that the guard leaves ungraded are left out.

        Raises:
            GuardError: more prompts are ungraded than allowed.
        """
        keys = [_digest(json.dumps(c.to_dicts())) for c in conversations]
        known = self._index()
        missing = [i for i in {k: i for i, k in reversed(list(enumerate(keys))) if k not in known}.values()]
        # Prompts of like length share a shard, so that its batches are tight.
        missing.sort(key=lambda i: (len(conversations[i].prompt), keys[i]))
        for start in range(0, len(missing), self._shard_size):
            if progress:
                progress(len(keys) - len(missing) + start, len(keys))
            rows = missing[start : start + self._shard_size]
            stem = self._write_drafts([keys[i] for i in rows], [conversations[i] for i in rows])
            self._verdicts(stem, dict(zip((keys[i] for i in rows), (conversations[i] for i in rows), strict=True)))
            known |= {keys[i]: (stem, n) for n, i in enumerate(rows)}
        found, ungraded = self._read(ids, keys, conversations, known)
        if ungraded > self._max_ungraded * len(ids):
            raise GuardError(f"at most {self._max_ungraded:.0%} ungraded drafts", f"{ungraded} of {len(ids)}", "check the guard")
        if progress:
            progress(len(keys), len(keys))
        return found

    def _index(self) -> dict[str, tuple[Path, int]]:
        """Return where each cached prompt's draft is: its shard and its number there."""
        return {
            row["key"]: (path.with_suffix(""), n)
            for path in sorted(self._folder.glob("shard-*.json"))
            if path.name.count(".") == 1
            for n, row in enumerate(json.loads(path.read_text()))
        }

    def _read(
        self,
        ids: Sequence[str],
        keys: Sequence[str],
        conversations: Sequence[Conversation],
        known: dict[str, tuple[Path, int]],
    ) -> tuple[list[TeacherRecord], int]:
        by_key = dict(zip(keys, conversations, strict=True))
        by_stem: dict[Path, list[int]] = {}
        for i, key in enumerate(keys):
            by_stem.setdefault(known[key][0], []).append(i)
        out: dict[int, TeacherRecord] = {}
        for stem, members in by_stem.items():
            drafts = json.loads(stem.with_suffix(".json").read_text())
            verdicts = self._verdicts(stem, by_key)
            with safe_open(stem.with_suffix(".safetensors"), "pt") as file:
                for i in members:
                    draft, verdict = drafts[known[keys[i]][1]], verdicts[keys[i]]
                    if verdict["alpha"] is None:
                        continue
                    out[i] = TeacherRecord(
                        id=ids[i],
                        response_ids=tuple(draft["ids"]),
                        response=draft["text"],
                        truncated=draft["truncated"],
                        alpha=verdict["alpha"],
                        categories=verdict["categories"],
                        log_prob=draft["log_prob"],
                        states=file.get_tensor(str(known[keys[i]][1])),
                    )
        return [out[i] for i in sorted(out)], len(ids) - len(out)

    def _write_drafts(self, keys: Sequence[str], conversations: Sequence[Conversation]) -> Path:
        """Sample and score one shard, and return its path without suffix."""
        system, settings = self._system, self._settings
        prompts = [system.renderer.render(c).ids for c in conversations]
        drafts = sample(
            system.lm,
            prompts,
            keys,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            seed=settings.seed,
            refusal_token=system.refusal_token,
        )
        with torch.inference_mode():
            scored = response_states(system.lm, prompts, [d.ids for d in drafts])
            log_probs = torch.log_softmax(system.lm.head(scored.states), -1).gather(1, scored.targets[:, None])[:, 0]
            sums = log_probs.new_zeros(len(keys)).index_add(0, scored.row, log_probs).tolist()
        states = {str(i): scored.states[scored.row == i].to(torch.bfloat16).cpu().contiguous() for i in range(len(keys))}
        rows: list[dict[str, Any]] = []
        for key, draft, log_prob in zip(keys, drafts, sums, strict=True):
            text = system.renderer.decode(draft.ids)
            rows.append({"key": key, "ids": draft.ids, "text": text, "truncated": draft.truncated, "log_prob": log_prob})
        stem = self._folder / f"shard-{_digest(''.join(keys))[:16]}"
        _write_atomically(stem.with_suffix(".safetensors"), lambda path: save_file(states, path))
        _write_atomically(stem.with_suffix(".json"), lambda path: path.write_text(json.dumps(rows)))
        return stem

    def _verdicts(self, stem: Path, conversations: dict[str, Conversation]) -> dict[str, dict[str, Any]]:
        """Return the guard's verdicts on a shard's drafts by prompt key, judging those of `conversations` that it lacks."""
        path = stem.with_suffix(f".{self._guard}.json")
        verdicts: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
        drafts = {row["key"]: row["text"] for row in json.loads(stem.with_suffix(".json").read_text())}
        lacking = [k for k in drafts if k in conversations and k not in verdicts]
        if lacking:
            judged = self._system.guard.judge([conversations[k].with_response(drafts[k]) for k in lacking])
            for key, v in zip(lacking, judged, strict=True):
                verdicts[key] = {"alpha": v.p_safe, "categories": dict(v.categories), "ungraded": v.ungraded}
            _write_atomically(path, lambda partial: partial.write_text(json.dumps(verdicts)))
        return verdicts


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    write(partial)
    os.replace(partial, path)
