"""The content-addressed cache of teacher records, written in shards: a kill loses at most one shard.

Layout: `DIR/KEY/settings.json` and `shard-NNNN.{safetensors,json}`, the JSON written last: a shard without it is not there.
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


@dataclass(frozen=True)
class TeacherSettings:
    """How drafts are drawn: temperature 1 is the method's p(y|x); greedy drafts would sharpen the student."""

    max_new_tokens: int = 48
    temperature: float = 1.0
    seed: int = 0
    shard_size: int = 64
    max_ungraded: float = 0.01


class TeacherCache:
    """Records for one list of prompts, made by one guarded system with one set of settings."""

    def __init__(self, folder: Path, system: GuardedSystem, settings: TeacherSettings) -> None:
        self._root, self._system, self._settings = folder, system, settings

    def records(
        self, ids: Sequence[str], conversations: Sequence[Conversation], progress: Progress | None = None
    ) -> list[TeacherRecord]:
        """Return the record of every prompt, sampling what is not in the cache yet.

        Raises:
            GuardError: more prompts are ungraded than the settings allow; ungraded prompts are otherwise left out.
        """
        described = self._description(ids, conversations)
        folder = self._root / hashlib.sha256(described.encode()).hexdigest()[:32]
        folder.mkdir(parents=True, exist_ok=True)
        _write_atomically(folder / "settings.json", lambda path: path.write_text(described))
        out: list[TeacherRecord] = []
        ungraded: list[str] = []
        size = self._settings.shard_size
        # Shards hold prompts of like length, so that batches inside a shard are tight.
        order = sorted(range(len(ids)), key=lambda i: (len(conversations[i].prompt), i))
        for number, start in enumerate(range(0, len(order), size)):
            rows = order[start : start + size]
            stem = folder / f"shard-{number:04d}"
            if not stem.with_suffix(".json").exists():
                self._write_shard(stem, [ids[i] for i in rows], [conversations[i] for i in rows])
            records, failed = _read_shard(stem)
            out += records
            ungraded += failed
            if progress:
                progress(min(start + size, len(ids)), len(ids))
        if len(ungraded) > self._settings.max_ungraded * len(ids):
            raise GuardError(
                f"at most {self._settings.max_ungraded:.0%} ungraded drafts",
                f"{len(ungraded)} of {len(ids)}",
                "check the guard",
            )
        place = {key: i for i, key in enumerate(ids)}
        return sorted(out, key=lambda r: place[r.id])

    def _description(self, ids: Sequence[str], conversations: Sequence[Conversation]) -> str:
        digest = hashlib.sha256(
            json.dumps([[i, c.to_dicts()] for i, c in zip(ids, conversations, strict=True)]).encode()
        ).hexdigest()
        made_by = {
            "schema": 1,
            "model": self._system.lm.fingerprint,
            "guard": self._system.guard.fingerprint,
            "settings": asdict(self._settings),
            "prompts": digest,
        }
        return json.dumps(made_by, indent=2, sort_keys=True)

    def _write_shard(self, stem: Path, ids: Sequence[str], conversations: Sequence[Conversation]) -> None:
        system, settings = self._system, self._settings
        prompts = [system.renderer.render(c).ids for c in conversations]
        drafts = sample(
            system.lm,
            prompts,
            ids,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            seed=settings.seed,
            refusal_token=system.refusal_token,
        )
        texts = [system.renderer.decode(d.ids) for d in drafts]
        verdicts = system.guard.judge([c.with_response(t) for c, t in zip(conversations, texts, strict=True)])
        with torch.inference_mode():
            scored = response_states(system.lm, prompts, [d.ids for d in drafts])
            log_probs = torch.log_softmax(system.lm.head(scored.states), -1).gather(1, scored.targets[:, None])[:, 0]
            sums = log_probs.new_zeros(len(ids)).index_add(0, scored.row, log_probs).tolist()
        states = {str(i): scored.states[scored.row == i].to(torch.bfloat16).cpu().contiguous() for i in range(len(ids))}
        rows: list[dict[str, Any]] = []
        for key, draft, text, verdict, log_prob in zip(ids, drafts, texts, verdicts, sums, strict=True):
            row = {"id": key, "ids": draft.ids, "text": text, "truncated": draft.truncated, "log_prob": log_prob}
            row |= {"alpha": verdict.p_safe, "categories": dict(verdict.categories), "ungraded": verdict.ungraded}
            rows.append(row)
        _write_atomically(stem.with_suffix(".safetensors"), lambda path: save_file(states, path))
        _write_atomically(stem.with_suffix(".json"), lambda path: path.write_text(json.dumps(rows)))


def _read_shard(stem: Path) -> tuple[list[TeacherRecord], list[str]]:
    records, ungraded = [], []
    with safe_open(stem.with_suffix(".safetensors"), "pt") as file:
        for i, row in enumerate(json.loads(stem.with_suffix(".json").read_text())):
            if row["alpha"] is None:
                ungraded.append(row["id"])
                continue
            records.append(
                TeacherRecord(
                    id=row["id"],
                    response_ids=tuple(row["ids"]),
                    response=row["text"],
                    truncated=row["truncated"],
                    alpha=row["alpha"],
                    categories=row["categories"],
                    log_prob=row["log_prob"],
                    states=file.get_tensor(str(i)),
                )
            )
    return records, ungraded


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    write(partial)
    os.replace(partial, path)
