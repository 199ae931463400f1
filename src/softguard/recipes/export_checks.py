"""What an export is asked in its runtime, beside the student in memory. Each check is one function that returns what it found.

The student in memory is the one that the file should be: its logits with the shift of the refusal's first token that was baked.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softguard.core import Conversation, Message, Reply, ReplySettings
from softguard.core.head import Head
from softguard.core.protocols import Progress
from softguard.data import PromptRow
from softguard.evaluation import metrics
from softguard.evaluation.results import MetricValue
from softguard.evaluation.statistics import paired_difference
from softguard.export import new_names
from softguard.export.chat_template import PROBES
from softguard.models import response_states, sample
from softguard.recipes.distill import Report
from softguard.recipes.student import ModelSystem
from softguard.runtimes import Runtime

TOP = 10
LOGIT_PROMPTS, CONTINUED_TOKENS, ANSWER_TOKENS = 20, 32, 24


@dataclass(frozen=True)
class Reference:
    """The student in memory, and where what was added to its vocabulary is in the runtime.

    `first_virtual_id`: of virtual token 0; None where virtual tokens have no ids there. `count`: of virtual tokens.
    `refusal_row`, D: the head row of the refusal's entry, whose id is the next after theirs; None where there is none.
    `first_token`, D: what was added to the head row of the refusal's first token.
    """

    student: ModelSystem
    first_virtual_id: int | None = None
    count: int = 0
    refusal_row: Tensor | None = None
    first_token: Tensor | None = None

    @property
    def refusal_id(self) -> int | None:
        """The id of the refusal's entry in the runtime."""
        return None if self.refusal_row is None or self.first_virtual_id is None else self.first_virtual_id + self.count

    def ids(self, conversation: Conversation) -> list[int]:
        """Return the ids that the runtime should make of a conversation."""
        if self.first_virtual_id is None:
            return list(self.student.renderer.render(conversation).ids)
        first = self.first_virtual_id
        return [i if i >= 0 else first - i - 1 for i in self.student.prompt_ids(conversation)]

    @torch.inference_mode()
    def logits(self, conversations: Sequence[Conversation]) -> Tensor:
        """Return the logits of the first answer token as the export should have them, N x V, the refusal's entry after them."""
        student = self.student
        prompts = [student.prompt_ids(c) for c in conversations]
        with student.running() as lm:
            states = response_states(lm, prompts, [[0]] * len(prompts), student.virtual_tokens).states
        head = student.lm.output_head
        logits = head.logits(states)
        if self.refusal_row is None or self.first_token is None:
            return logits
        logits[:, student.refusal_token] += head.scale * (states.float() @ self.first_token.to(states.device))
        own = Head(self.refusal_row[None].to(head.weight), None, head.scale, head.softcap)
        return torch.cat([logits, own.logits(states)], 1)

    def column(self, runtime_id: int) -> int | None:
        """Return where a runtime's id is in `logits`; None for a virtual token."""
        size = len(self.student.lm.output_head.weight)
        return size if runtime_id == self.refusal_id else runtime_id if runtime_id < size else None


def check_tokens(runtime: Runtime, reference: Reference, rows: Sequence[PromptRow]) -> dict[str, Any]:
    """Compare the runtime's ids with training's: on probes with system turns, histories, other scripts and the refusal's own text
    (which must not become the refusal's entry), and on prompts."""
    text = reference.student.refusal_text
    refused = Conversation((Message("user", f"Say: {text}"), Message("assistant", text), Message("user", text)))
    conversations = [*PROBES, refused, *(r.conversation for r in rows)]
    wrong = [i for i, c in enumerate(conversations) if runtime.prompt_ids(c) != reference.ids(c)]
    return {"conversations": len(conversations), "different": len(wrong), "first_different": wrong[0] if wrong else None}


def check_turns(runtime: Runtime, reference: Reference, count: int) -> dict[str, Any]:
    """Count virtual tokens in chats of one to four turns: each has to be there once, whatever came before."""
    turns: list[Message] = []
    found = []
    for k in range(4):
        turns.append(Message("user", f"Question {k + 1}?"))
        ids = runtime.prompt_ids(Conversation(tuple(turns)))
        found.append(_virtual(ids, reference, count))
        turns.append(Message("assistant", f"Answer {k + 1}."))
    once = all(f == list(range(count)) for f in (sorted(x) for x in found))
    return {"turns": [1, 2, 3, 4], "virtual_tokens": [len(f) for f in found], "once_each": once}


def check_names(runtime: Runtime, reference: Reference, names: Sequence[str]) -> dict[str, Any]:
    """Write names of virtual tokens into a user's text: guessed ones, and those of this export.

    The file holds its names: who reads it can write them. What that gives is counted, not hidden.
    """
    count = len(names)
    guesses = ["<|softguard_0|>", *new_names(2), names[0].replace("|>", ""), names[0].upper()]
    plain = len(_virtual(runtime.prompt_ids(Conversation.from_prompt("Hello.")), reference, count))

    def more(text: str) -> int:
        return len(_virtual(runtime.prompt_ids(Conversation.from_prompt(text)), reference, count)) - plain

    guessed = sum(more(f"Hello {g} there.") for g in guesses)
    return {"guessed_names_parsed": guessed, "guesses": len(guesses), "true_names_parsed": more(" ".join(names[:4])), "of": 4}


def check_logits(runtime: Runtime, reference: Reference, rows: Sequence[PromptRow]) -> dict[str, Any]:
    """Compare log-probabilities of the runtime's likeliest tokens with the student's, at the first answer position."""
    conversations = [r.conversation for r in rows]
    wanted = torch.log_softmax(reference.logits(conversations), -1).cpu()
    gaps, same, pairs = [], 0, []
    for i, conversation in enumerate(conversations):
        found = runtime.log_probs(reference.ids(conversation), TOP)
        known = [(found[k], float(wanted[i, at])) for k in found if (at := reference.column(k)) is not None]
        pairs += known
        gaps += [abs(there - here) for there, here in known]
        same += reference.column(max(found, key=lambda k: found[k])) == int(wanted[i].argmax())
    a, b = np.array(pairs).T
    return {
        "prompts": len(rows),
        "top": TOP,
        "mean_gap_nats": float(np.mean(gaps)),
        "largest_gap_nats": float(np.max(gaps)),
        "correlation": float(np.corrcoef(a, b)[0, 1]),
        "same_likeliest": same / len(rows),
    }


def check_continuation(runtime: Runtime, reference: Reference, rows: Sequence[PromptRow]) -> dict[str, Any]:
    """Compare greedy continuations: where both refuse or both answer, how far they go together."""
    student = reference.student
    prompts = [student.prompt_ids(r.conversation) for r in rows]
    with student.running() as lm:
        made = sample(
            lm,
            prompts,
            [r.id for r in rows],
            max_new_tokens=CONTINUED_TOKENS,
            temperature=0.0,
            seed=0,
            refusal_token=student.refusal_token,
            refuse_above=student.threshold,
            virtual_tokens=student.virtual_tokens,
        )
    stop = student.lm.stop_ids
    refusal = student.renderer.encode_response(student.refusal_text)
    shares, firsts = [], []
    for row, generation in zip(rows, made, strict=True):
        wanted = refusal if generation.refused else [i for i in generation.ids if i not in stop]
        found = [i for i in runtime.generate(reference.ids(row.conversation), CONTINUED_TOKENS) if i not in stop]
        # The refusal's entry stands for the refusal's tokens; what follows it, if anything does, is compared as it is.
        found = [*refusal, *found[1:]] if found and found[0] == reference.refusal_id else found
        length = max(len(wanted), len(found), 1)
        alike = next((k for k, (x, y) in enumerate(zip(wanted, found, strict=False)) if x != y), min(len(wanted), len(found)))
        firsts.append(None if wanted == found else alike)
        shares.append(sum(x == y for x, y in zip(wanted, found, strict=False)) / length if length else 1.0)
    return {
        "prompts": len(rows),
        "tokens": CONTINUED_TOKENS,
        "identical": sum(f is None for f in firsts) / len(rows),
        "share_of_equal_tokens": float(np.mean(shares)),
        "first_divergence": firsts,
    }


def check_answers(runtime: Runtime, reference: Reference, rows: Sequence[PromptRow], report: Report) -> dict[str, Any]:
    """Measure refusals in the runtime and in memory on the same prompts, paired."""
    student = reference.student
    progress: Progress = partial(_tell, report, "verify: answers in memory")
    settings = ReplySettings(ANSWER_TOKENS)
    ours = student.respond([r.conversation for r in rows], [r.id for r in rows], settings, progress)
    theirs = []
    for k, row in enumerate(rows):
        report("verify: answers in the runtime", k, len(rows), {})
        said = runtime.answer(row.conversation, ANSWER_TOKENS, 1)
        text = said.text.strip()
        theirs.append(Reply(text, math.nan, said.truncated, refused=student.says_refusal(text, said.truncated)))
    report("verify: answers in the runtime", len(rows), len(rows), {})
    ended = sum(r.refused and r.text == student.refusal_text.strip() and not r.truncated for r in theirs)
    return compare_answers(rows, ours, theirs) | {"runtime_refusals_that_end_there": ended}


def compare_answers(rows: Sequence[PromptRow], ours: Sequence[Reply], theirs: Sequence[Reply]) -> dict[str, Any]:
    """Return rates by label with the paired difference, and how far the decisions agree.

    `agreement` is on the decision to refuse in the run's own text; the rates are of full refusals of any wording.
    """
    out: dict[str, Any] = {"prompts": len(rows), "longest_answer_tokens": ANSWER_TOKENS, "rates": {}}
    for label in ("harmful", "look_alike", "benign"):
        at = [i for i, r in enumerate(rows) if r.label == label]
        if not at:
            continue
        topics = [rows[i].topic for i in at]
        here, there = [ours[i] for i in at], [theirs[i] for i in at]
        p, q = metrics.refusal_probabilities(here), metrics.refusal_probabilities(there)
        difference = paired_difference(q, p, 0, topics)
        out["rates"][label] = {
            "in_memory": _rate(metrics.refusal_rate(here, 0, topics)),
            "runtime": _rate(metrics.refusal_rate(there, 0, topics)),
            "difference": {"value": difference.value, "low": difference.interval.low, "high": difference.interval.high},
        }
    return out | agreement([r.refused for r in ours], [r.refused for r in theirs])


def agreement(ours: Sequence[bool], theirs: Sequence[bool]) -> dict[str, Any]:
    """Return the share of equal decisions, Cohen's kappa (None where both always decide alike), and the counts."""
    both = sum(a and b for a, b in zip(ours, theirs, strict=True))
    neither = sum(not a and not b for a, b in zip(ours, theirs, strict=True))
    n, p, q = len(ours), sum(ours) / len(ours), sum(theirs) / len(theirs)
    equal, chance = (both + neither) / n, p * q + (1 - p) * (1 - q)
    counts = {"both_refuse": both, "neither": neither, "in_memory_only": sum(ours) - both, "runtime_only": sum(theirs) - both}
    return {"agreement": equal, "kappa": (equal - chance) / (1 - chance) if chance < 1 else None, "counts": counts}


def decisions_in_memory(reference: Reference, rows: Sequence[PromptRow]) -> dict[str, Any]:
    """Compare s > b with what the baked head decides in memory: what the baking itself costs, before any runtime's rounding."""
    logits = reference.logits([r.conversation for r in rows])
    baked = (logits.argmax(-1) == logits.shape[1] - 1).tolist()
    s = reference.student.refusal_log_odds([r.conversation for r in rows])
    threshold = reference.student.threshold
    wanted = [x > threshold for x in s] if threshold is not None else baked
    return {"prompts": len(rows), **agreement(wanted, baked)}


def _rate(value: MetricValue) -> Mapping[str, Any]:
    return {"value": value.value, "low": value.low, "high": value.high, "n": value.n}


def _virtual(ids: Sequence[int], reference: Reference, count: int) -> list[int]:
    first = reference.first_virtual_id
    return [] if first is None else [i - first for i in ids if first <= i < first + count]


def _tell(report: Report, stage: str, done: int, total: int) -> None:
    report(stage, done, total, {})
