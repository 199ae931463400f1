"""`respond` and `judge`: the scripting contract. Lines in, lines out, order kept, nothing lost on a kill.

Both work in `OUT.partial`, whose first line binds it to a hash of the settings and the input, resume from it and rename at the
end. Bad lines go to `OUT.errors.jsonl` by number; the good ones are done.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softguard.core import Conversation, Guard, ReplySettings, System
from softguard.core.protocols import Progress
from softguard.errors import DataError

CHUNK = 32


@dataclass(frozen=True)
class JobResult:
    """How many lines were done and how many were bad."""

    done: int
    bad: int


def respond_file(
    system: System, settings: ReplySettings, described: str, source: Path, out: Path, progress: Progress | None = None
) -> JobResult:
    """Answer every line of `source` with `system`; `described` names the system for the binding hash."""

    def work(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        replies = system.respond([request(r) for r in rows], [str(r["id"]) for r in rows], settings)
        lines = []
        for row, reply in zip(rows, replies, strict=True):
            line = {**row, "response": reply.text, "refusal_log_odds": finite(reply.refusal_log_odds)}
            if reply.replaced is not None:
                line |= {"p_safe": reply.p_safe, "replaced": reply.replaced}
            if reply.ungraded:
                line["ungraded"] = reply.ungraded
            lines.append(line)
        return lines

    return _run(work, request, f"respond|{described}|{settings}", source, out, progress)


def judge_file(guard: Guard, source: Path, out: Path, progress: Progress | None = None) -> JobResult:
    """Judge every (prompt, response) line of `source`."""

    def work(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        lines = []
        for row, verdict in zip(rows, guard.judge([_pair(r) for r in rows]), strict=True):
            graded = {"p_safe": verdict.p_safe, "categories": dict(verdict.categories)}
            lines.append({**row, **(graded if verdict.ungraded is None else {"ungraded": verdict.ungraded})})
        return lines

    return _run(work, _pair, f"judge|{guard.fingerprint}", source, out, progress)


def request(row: dict[str, Any]) -> Conversation:
    """Return the conversation of an input line.

    Raises:
        DataError: neither or both of prompt and messages, or of the wrong type.
    """
    if ("prompt" in row) == ("messages" in row):
        raise DataError('"prompt" or "messages"', ", ".join(sorted(row)) or "an empty object", "give exactly one of them")
    if "prompt" in row:
        if not isinstance(row["prompt"], str) or not row["prompt"].strip():
            raise DataError("a prompt of text", repr(row["prompt"])[:60], "write the prompt as a string")
        return Conversation.from_prompt(row["prompt"])
    if not isinstance(row["messages"], list):
        raise DataError("messages as a list", type(row["messages"]).__name__, 'write [{"role", "content"}, ...]')
    conversation = Conversation.from_dicts(row["messages"])
    if conversation.messages[-1].role != "user":
        raise DataError("a user turn at the end", conversation.messages[-1].role, "end the messages with the user's turn")
    return conversation


def _pair(row: dict[str, Any]) -> Conversation:
    if not isinstance(row.get("prompt"), str) or not isinstance(row.get("response"), str):
        raise DataError('"prompt" and "response" of text', ", ".join(sorted(row)), "give both as strings")
    return Conversation.from_prompt(row["prompt"]).with_response(row["response"])


def finite(value: float) -> float | None:
    """Return a number that JSON can hold: infinities at +-1e9, NaN as null."""
    return None if math.isnan(value) else max(-1e9, min(1e9, value))


def _run(
    work: Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]],
    check: Callable[[dict[str, Any]], Conversation],
    settings: str,
    source: Path,
    out: Path,
    progress: Progress | None,
) -> JobResult:
    rows, errors = _read(source, check)
    key = hashlib.sha256(f"{settings}|{hashlib.sha256(source.read_bytes()).hexdigest()}".encode()).hexdigest()
    partial = out.with_name(out.name + ".partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    finished = _resume(partial, key)
    with partial.open("a" if finished is not None else "w", encoding="utf-8") as file:
        if finished is None:
            file.write(json.dumps({"settings": key}) + "\n")
        done = len(finished or [])
        while done < len(rows):
            for line in work(rows[done : done + CHUNK]):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            done = min(done + CHUNK, len(rows))
            if progress:
                progress(done, len(rows))
    errors_path = out.with_name(out.name + ".errors.jsonl")
    if errors:
        errors_path.write_text("".join(json.dumps(e) + "\n" for e in errors), encoding="utf-8")
    else:
        errors_path.unlink(missing_ok=True)
    final = partial.with_name(partial.name + ".done")
    final.write_text(partial.read_text(encoding="utf-8").split("\n", 1)[1], encoding="utf-8")
    os.replace(final, out)
    partial.unlink()
    return JobResult(len(rows), len(errors))


def _read(source: Path, check: Callable[[dict[str, Any]], Conversation]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the good rows, and what was wrong with the others by line number."""
    try:
        lines = source.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError("a readable file of JSON lines", f"{source}: {error.strerror}", "check --in") from error
    rows: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, raw in enumerate(lines, 1):
        if not raw.strip():
            continue
        try:
            row = json.loads(raw.decode("utf-8"))
            if not isinstance(row, dict) or not isinstance(row.get("id"), str | int) or isinstance(row.get("id"), bool):
                raise DataError('an object with an "id"', type(row).__name__, "give every line an id of its own")
            if str(row["id"]) in seen:
                raise DataError("an id of its own", f"{row['id']!r} again", "give every line an id of its own")
            check(row)
        except ValueError as error:  # DataError, JSONDecodeError and UnicodeDecodeError are all of them
            errors.append({"line": number, "error": str(error)})
            continue
        seen.add(str(row["id"]))
        rows.append(row)
    return rows, errors


def _resume(partial: Path, key: str) -> list[str] | None:
    """Return the finished lines of a partial file bound to `key`, a torn last line cut off; None where there is none."""
    if not partial.exists():
        return None
    text = partial.read_text(encoding="utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1].splitlines()
    if not whole or whole[0] != json.dumps({"settings": key}):
        return None
    partial.write_text("\n".join(whole) + "\n", encoding="utf-8")
    return whole[1:]
