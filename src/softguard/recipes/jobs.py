"""`respond` and `judge`: the scripting contract. Lines in, lines out, order kept, nothing lost on a kill.

Both work in `OUT.partial`, whose first line binds it to a hash of the settings and the input, resume from it and rename at the
end. Bad lines go to `OUT.errors.jsonl` by number; the good ones are done. Files are bytes here: a line ends at b"\\n" alone, and
what an earlier job wrote into a row does not pass through.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softguard.core import Conversation, Guard, ReplySettings, System
from softguard.core.json_number import finite
from softguard.core.protocols import Progress
from softguard.core.ungraded import MAX_UNGRADED_SHARE, stop_where_ungraded
from softguard.errors import DataError
from softguard.recipes.student import ModelSystem
from softguard.teacher import GuardedSystem

CHUNK = 32
_VERDICT = ("p_safe", "categories", "ungraded", "judged_in_part")
_REPLY = ("response", "refusal_log_odds", "refused", "replaced")


@dataclass(frozen=True)
class JobResult:
    """How many lines were done and how many were bad."""

    done: int
    bad: int


def respond_file(
    system: System, settings: ReplySettings, described: str, source: Path, out: Path, progress: Progress | None = None
) -> JobResult:
    """Answer every line of `source` with `system`; `described` names the system for the binding hash.

    Raises:
        DataError: `source` cannot be read, or `out` is a folder or `source` itself.
    """
    decides = isinstance(system, ModelSystem) and system.threshold is not None

    def check(row: dict[str, Any]) -> None:
        _check_length(system, request(row), settings.max_new_tokens)

    def work(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        replies = system.respond([request(r) for r in rows], [str(r["id"]) for r in rows], settings)
        lines = []
        for row, reply in zip(rows, replies, strict=True):
            # A prompt's own categories stay; those of an earlier verdict go.
            line = without(row, _REPLY + (_VERDICT if "p_safe" in row else ("ungraded",)))
            line |= {"response": reply.text, "refusal_log_odds": finite(reply.refusal_log_odds)}
            if decides:
                line["refused"] = reply.refused
            if reply.replaced is not None:
                line |= {"p_safe": reply.p_safe, "replaced": reply.replaced}
            if reply.ungraded:
                line["ungraded"] = reply.ungraded
            lines.append(line)
        return lines

    return _run(work, check, f"respond|{described}|{settings}", source, out, progress)


def judge_file(
    guard: Guard, source: Path, out: Path, progress: Progress | None = None, max_ungraded: float = MAX_UNGRADED_SHARE
) -> JobResult:
    """Judge every (prompt, response) line of `source`.

    Raises:
        DataError: see `respond_file`.
        GuardError: more than the share `max_ungraded` of all lines is ungraded (`core.ungraded`); what was done is kept.
    """

    def work(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        lines = []
        for row, verdict in zip(rows, guard.judge([_pair(r) for r in rows]), strict=True):
            graded = {"p_safe": verdict.p_safe, "categories": dict(verdict.categories)}
            line = {**without(row, _VERDICT), **(graded if verdict.ungraded is None else {"ungraded": verdict.ungraded})}
            lines.append({**line, "judged_in_part": True} if verdict.truncated else line)
        return lines

    return _run(work, _pair, f"judge|{guard.fingerprint}", source, out, progress, max_ungraded)


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
    conversation = _turns(row["messages"])
    if conversation.messages[-1].role != "user":
        raise DataError("a user turn at the end", conversation.messages[-1].role, "end the messages with the user's turn")
    return conversation


def _pair(row: dict[str, Any]) -> Conversation:
    """Return the pair of an input line: prompt or messages with a response, or messages that end with the assistant's turn."""
    if ("prompt" in row) == ("messages" in row):
        raise DataError('"prompt" or "messages"', ", ".join(sorted(row)) or "an empty object", "give exactly one of them")
    if "prompt" in row:
        if not isinstance(row["prompt"], str):
            raise DataError("a prompt of text", repr(row["prompt"])[:60], "write the prompt as a string")
        conversation = Conversation.from_prompt(row["prompt"])
    else:
        conversation = _turns(row["messages"])
    closed = conversation.messages[-1].role == "assistant"
    if closed == ("response" in row):
        found = "both" if closed else "neither"
        raise DataError('"response", or an assistant turn at the end of "messages"', found, "give exactly one of them")
    if not any(m.role == "user" for m in conversation.messages):
        raise DataError("a user turn before the answer", "none", "judge an answer with its prompt")
    if closed:
        return conversation
    if not isinstance(row["response"], str):
        raise DataError("a response of text", repr(row["response"])[:60], "write the response as a string")
    return conversation.with_response(row["response"])


def _turns(messages: object) -> Conversation:
    if not isinstance(messages, list):
        raise DataError("messages as a list", type(messages).__name__, 'write [{"role", "content"}, ...]')
    return Conversation.from_dicts(messages)


def _check_length(system: System, conversation: Conversation, max_new_tokens: int) -> None:
    """Check that the model's template takes the turns and that its context holds them with their answer."""
    if not isinstance(system, ModelSystem | GuardedSystem):
        return
    length, context = system.prompt_length(conversation), system.lm.context
    if context is not None and length + max_new_tokens > context:
        raise DataError(f"a prompt of at most {context - max_new_tokens} tokens", f"{length}", "shorten it, or the answer")


def without(row: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Return a row without what an earlier job may have put there."""
    return {k: v for k, v in row.items() if k not in keys}


def _run(
    work: Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]],
    check: Callable[[dict[str, Any]], object],
    settings: str,
    source: Path,
    out: Path,
    progress: Progress | None,
    max_ungraded: float = 1.0,
) -> JobResult:
    partial, errors_path = (out.with_name(out.name + end) for end in (".partial", ".errors.jsonl"))
    _check_out(source, out, partial, errors_path)
    try:
        given = source.read_bytes()
    except OSError as error:
        raise DataError("a readable file of JSON lines", f"{source}: {error.strerror}", "check --in") from error
    rows, errors = _read(given, check)
    key = hashlib.sha256(f"{settings}|{hashlib.sha256(given).hexdigest()}".encode()).hexdigest()
    head = _lines([{"settings": key}])
    out.parent.mkdir(parents=True, exist_ok=True)
    done = _resume(partial, head, len(rows))
    with partial.open("wb" if done is None else "ab") as file:
        if done is None:
            file.write(head)
        done = done or 0
        ungraded = _ungraded([json.loads(line) for line in partial.read_bytes().split(b"\n")[1 : done + 1]])
        if progress:
            progress(done, len(rows))
        while done < len(rows):
            lines = work(rows[done : done + CHUNK])
            ungraded += _ungraded(lines)
            todo = "check the guard, or allow more by --max-ungraded; the same command goes on after what is done"
            stop_where_ungraded(ungraded.total(), len(rows), ungraded, "lines", todo, max_ungraded)
            file.write(_lines(lines))
            file.flush()
            done = min(done + CHUNK, len(rows))
            if progress:
                progress(done, len(rows))
    if errors:
        errors_path.write_bytes(_lines(errors))
    else:
        errors_path.unlink(missing_ok=True)
    final = partial.with_name(partial.name + ".done")
    final.write_bytes(partial.read_bytes()[len(head) :])
    os.replace(final, out)
    partial.unlink()
    return JobResult(len(rows), len(errors))


def _ungraded(lines: Sequence[dict[str, Any]]) -> Counter[str]:
    """Return the reasons of ungraded lines with their counts."""
    return Counter(str(line["ungraded"]) for line in lines if line.get("ungraded"))


def _lines(rows: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _check_out(source: Path, out: Path, *beside: Path) -> None:
    if out.is_dir():
        raise DataError("a file for --out", f"a folder, {out}", "name a file in it")
    for path in (out, *beside):
        if path.exists() and source.exists() and path.samefile(source):
            raise DataError("an --out that leaves --in as it is", f"{path}, which is --in", "choose another --out")


def _read(given: bytes, check: Callable[[dict[str, Any]], object]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the good rows, and what was wrong with the others by line number."""
    rows: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, raw in enumerate(given.split(b"\n"), 1):
        if not raw.strip():
            continue
        try:
            row = json.loads(raw.decode("utf-8"))
            if not isinstance(row, dict) or not isinstance(row.get("id"), str | int) or isinstance(row.get("id"), bool):
                raise DataError('an object with an "id"', type(row).__name__, "give every line an id of its own")
            _lines([row])  # a lone surrogate is JSON, but no file can hold it
            if str(row["id"]) in seen:
                raise DataError("an id of its own", f"{row['id']!r} again", "give every line an id of its own")
            check(row)
        except (ValueError, RecursionError) as error:  # DataError, JSONDecodeError and UnicodeError are ValueErrors
            errors.append({"line": number, "error": _plain(error)})
            continue
        seen.add(str(row["id"]))
        rows.append(row)
    return rows, errors


def _plain(error: Exception) -> str:
    """Return an error's text as any file can hold it."""
    if isinstance(error, UnicodeEncodeError):
        return str(DataError("text of whole characters", f"half a pair, \\u{ord(error.object[error.start]):x}", "remove it"))
    if isinstance(error, RecursionError):
        return str(DataError("JSON of some dozens of levels", "far more", "flatten it"))
    return str(error).encode(errors="backslashreplace").decode()


def _resume(partial: Path, head: bytes, total: int) -> int | None:
    """Return how many rows of `total` a partial file that begins with `head` holds; None where there is no such file.

    It is cut, never rewritten: after its last whole line, and there after the last whole batch, so that batches are those of a
    run that nothing interrupted.
    """
    if not partial.exists():
        return None
    made = partial.read_bytes()
    if not made.startswith(head):
        return None
    lines = made.split(b"\n")[1:-1]
    kept = len(lines) if len(lines) >= total else len(lines) // CHUNK * CHUNK
    os.truncate(partial, len(head) + sum(len(line) + 1 for line in lines[:kept]))
    return kept
