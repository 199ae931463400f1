"""Answers in OpenAI's form, whole and as server-sent events; what is ours stands apart, under `softguard`."""

import json
from dataclasses import dataclass
from typing import Any

from softguard.core.json_number import finite
from softguard.serving.worker import Outcome


@dataclass(frozen=True)
class ResponseHead:
    """What all parts of one response repeat."""

    id: str
    created: int
    model: str
    fingerprint: str

    def completion(self, text: str, outcome: Outcome, ours: dict[str, Any]) -> dict[str, Any]:
        """Return a whole response."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(outcome)}
        return {**self._with("chat.completion", [choice]), "usage": usage(outcome), "softguard": ours}

    def opening(self) -> dict[str, Any]:
        """Return the first chunk of a stream."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, text: str) -> dict[str, Any]:
        """Return a chunk of text."""
        return self._chunk({"content": text})

    def closing(self, outcome: Outcome, ours: dict[str, Any]) -> dict[str, Any]:
        """Return the chunk that says why the answer ended."""
        return {**self._chunk({}, finish_reason(outcome)), "softguard": ours}

    def counted(self, outcome: Outcome) -> dict[str, Any]:
        """Return the chunk of the usage, for those who asked for it."""
        return {**self._with("chat.completion.chunk", []), "usage": usage(outcome)}

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._with("chat.completion.chunk", [choice])

    def _with(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        named = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**named, "system_fingerprint": self.fingerprint, "choices": choices}


def finish_reason(outcome: Outcome) -> str:
    """Return `length` for a cut answer, `content_filter` where a guard withheld a draft, else `stop`; a student's refusal too."""
    if outcome.reply.truncated:
        return "length"
    return "content_filter" if outcome.reply.replaced else "stop"


def usage(outcome: Outcome) -> dict[str, int]:
    """Return the counts: virtual tokens are the prompt's, a refusal's tokens the completion's, a withheld draft's nobody's."""
    prompt, answer = outcome.prompt_tokens, outcome.answer_tokens
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def ours(outcome: Outcome, threshold: float | None, seed: int) -> dict[str, Any]:
    """Return what OpenAI's form has no place for: how the system decided, the guard's score, and the machine's own times."""
    reply, verdict = outcome.reply, outcome.verdict
    made = outcome.tokens_made
    return {
        "refused": reply.declined,
        "replaced": reply.replaced,
        "refusal_log_odds": finite(reply.refusal_log_odds),
        "threshold": None if threshold is None else finite(threshold),
        "p_safe": verdict.p_safe if verdict else reply.p_safe,
        # The reason stays here: it may name the guard's server.
        "ungraded": bool(reply.ungraded or (verdict and verdict.ungraded)),
        "judged_in_part": bool(verdict and verdict.truncated),
        "tokens_made": made,
        "first_token_ms": round(outcome.first_token_ms, 2),
        "answer_ms": round(outcome.answer_ms, 2),
        "tokens_per_second": round(1000 * made / outcome.answer_ms, 2) if made and outcome.answer_ms else None,
        "seed": seed,
    }


def event(data: dict[str, Any] | str) -> str:
    """Return one server-sent event."""
    return f"data: {data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, allow_nan=False)}\n\n"
