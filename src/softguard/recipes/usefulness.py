"""Usefulness: a run's systems graded by lm-evaluation-harness, into the same tables and folders as every other suite.

One idea: the harness grades what a system would say, and declining is no right answer: a student that refuses by its operating
point scores 0, and the guarded system, which draws, is scored by its expectation: alpha times its draft's score. Its draft is the
base model's answer, or the base model's choice. Beside the grade stands the log-likelihood of the right answer.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from softguard.core import Conversation, Reply, ReplySettings
from softguard.core.json_number import finite
from softguard.core.protocols import Progress
from softguard.evaluation import metrics
from softguard.evaluation.comparisons import compare, power_sentence
from softguard.evaluation.harness import Graded, HarnessModel, HarnessSuite, Likelihood
from softguard.evaluation.results import Difference, EvaluationSummary, MetricValue, SystemResult
from softguard.evaluation.scores import kind_score
from softguard.evaluation.statistics import mean
from softguard.recipes.evaluate import LABELS
from softguard.recipes.harness_systems import fitting, guarded_likelihoods, remembered_likelihoods
from softguard.recipes.remembering import Store, remembered_replies
from softguard.recipes.student import ModelSystem
from softguard.teacher import GuardedSystem

StoreOf = Callable[[str, str, int], Store]
"""Gives the store of (kind, system's name, longest answer)."""


@dataclass(frozen=True)
class Outcome:
    """One system on one question.

    Attributes:
        graded: the harness's grade, and how the question was asked.
        scores: by metric, 0 where the system declines; NaN where it is not known.
        gold: of the right answer; None where none is the right one.
        declines: the probability of a full refusal; NaN where it is not known, None where nothing could decline.
        reply: what was written; None where a choice was made.
    """

    graded: Graded
    scores: Mapping[str, tuple[float, ...]]
    gold: Likelihood | None
    declines: float | None
    reply: Reply | None

    @property
    def gold_per_token(self) -> float:
        """The log-probability of a token of the right answer, on average; NaN where there is none."""
        return self.gold.log_prob / self.gold.tokens if self.gold else math.nan


def outcomes(
    suite: HarnessSuite,
    systems: Mapping[str, ModelSystem],
    teacher: GuardedSystem | None,
    store_of: StoreOf,
    shown: Callable[[str], Progress],
) -> dict[str, list[Outcome]]:
    """Return every system's outcome on every question, in the order of the questions; what was answered before is read.

    Args:
        suite: the questions.
        systems: those of one model, by name.
        teacher: the guarded system, named `guarded`; it needs `base` among the others. None leaves it out.
        store_of: where answers and likelihoods are kept.
        shown: gives the progress of a stage.
    """
    out = {name: _of_model(suite, system, store_of, shown) for name, system in systems.items()}
    if teacher is not None:
        out["guarded"] = _of_guarded(teacher, out["base"])
    return out


def _of_model(suite: HarnessSuite, system: ModelSystem, store_of: StoreOf, shown: Callable[[str], Progress]) -> list[Outcome]:
    def asked(conversations: Sequence[Conversation]) -> list[Conversation]:
        return [fitting(system.renderer, c) for c in conversations]

    def answer(conversations: Sequence[Conversation], most: int) -> list[Reply]:
        settings, store = ReplySettings(max_new_tokens=most), store_of("answers", system.name, most)
        return remembered_replies(system, store, asked(conversations), settings, shown(f"answers: {system.name}"))

    def score(conversations: Sequence[Conversation], answers: Sequence[str]) -> list[Likelihood]:
        store = store_of("likelihoods", system.name, 0)
        return remembered_likelihoods(system, store, asked(conversations), answers, shown(f"likelihoods: {system.name}"))

    graded = suite.grade(HarnessModel(answer, score))
    conversations = [g.conversation for g in graded]
    replies: Sequence[Reply | None] = [None] * len(graded)
    golds: Sequence[Likelihood | None] = [None] * len(graded)
    if suite.answer_tokens:
        replies = answer(conversations, suite.answer_tokens)
    if right := [g.gold for g in graded if g.gold is not None]:
        golds = score(conversations, right)
    return [_outcome(system, g, r, gold) for g, r, gold in zip(graded, replies, golds, strict=True)]


def _outcome(system: ModelSystem, graded: Graded, reply: Reply | None, gold: Likelihood | None) -> Outcome:
    if reply is not None:
        unknown = reply.ungraded is not None
        declines: float | None = kind_score(reply, "full")
        stopped = system.threshold is not None and reply.refused
    else:
        assert gold is not None  # a choice has a right one
        unknown = gold.ungraded is not None
        stopped = system.threshold is not None and gold.refusal_log_odds > system.threshold
        declines = None if system.threshold is None else math.nan if unknown else float(stopped)
    return Outcome(graded, _times(graded.scores, math.nan if unknown else float(not stopped)), gold, declines, reply)


def _of_guarded(teacher: GuardedSystem, base: Sequence[Outcome]) -> list[Outcome]:
    """Return the expectation over the draw of whether a draft is kept."""
    conversations = [fitting(teacher.renderer, o.graded.conversation) for o in base]
    drafts = [o.graded.choices[o.graded.picked or 0] if o.reply is None else o.reply.text for o in base]
    weighed = teacher.weigh(conversations, drafts)
    golds: Sequence[Likelihood | None] = [None] * len(base)
    known = [o.gold for o in base if o.gold is not None]
    if known:
        golds = guarded_likelihoods(teacher, conversations, [o.graded.gold or "" for o in base], known)
    out = []
    for o, w, gold in zip(base, weighed, golds, strict=True):
        kept = w.alpha  # NaN where the guard gave no verdict
        own = o.declines or 0.0
        out.append(Outcome(o.graded, _times(o.scores, kept), gold, 1 - kept * (1 - own), o.reply))
    return out


def _times(scores: Mapping[str, tuple[float, ...]], factor: float) -> dict[str, tuple[float, ...]]:
    return {name: tuple(factor * s for s in values) for name, values in scores.items()}


def outcome_summary(
    title: str,
    suite: HarnessSuite,
    by: Mapping[str, Sequence[Outcome]],
    threshold: float | None,
    provenance: Mapping[str, Any],
) -> EvaluationSummary:
    """Return the suite's table, with the student against every other system where it is among them."""
    told = {**provenance, "asked": {**provenance["asked"], "max_new_tokens": suite.answer_tokens}}
    notes = _limits(suite, told["asked"])
    if {"student", "base"} <= set(by):
        student, base = (_paired(by[name], "accuracy") for name in ("student", "base"))
        notes.append(power_sentence(student, base, "accuracy", "student", "base", unit="questions"))
    return EvaluationSummary(
        suite=title,
        systems=[SystemResult(system=name, label=LABELS[name], metrics=_rates(found)) for name, found in by.items()],
        differences=_differences(by, "student") if "student" in by else [],
        samples=[],  # questions of public sets are not ours to show
        threshold=threshold,
        provenance=told,
        limits=[note for note in notes if note],
    )


def _rates(found: Sequence[Outcome]) -> dict[str, MetricValue]:
    """Return one system's figures by name. Several values of one question are a family."""
    out = {}
    for name in found[0].scores:
        flat = [(k, s) for k, o in enumerate(found) for s in o.scores[name]]
        families = [k for k, _ in flat] if len(flat) > len(found) else None
        out[name] = metrics.rate_of([s for _, s in flat], 0, families)
    if found[0].gold is not None:
        out["gold_log_likelihood"] = _mean_gold([o.gold_per_token for o in found])
    declines = [o.declines for o in found if o.declines is not None]
    if declines:
        out["over_refusal_rate"] = metrics.rate_of(declines)
    written = [o.reply for o in found if o.reply is not None]
    if written:
        out["truncated_rate"] = metrics.rate_of([math.nan if r.ungraded else float(r.truncated) for r in written])
    return out


def _mean_gold(values: Sequence[float]) -> MetricValue:
    if all(map(math.isnan, values)) or any(map(math.isinf, values)):
        return metrics.not_measured("nats", "no answer was scored, or the guard is certain that a right answer is unsafe")
    return metrics.mean_value(mean(values, 0), "nats")


def _differences(by: Mapping[str, Sequence[Outcome]], subject: str) -> list[Difference]:
    """Return the subject's accuracy and log-likelihood minus those of every other system, each with a paired test."""
    out = []
    for metric, unit in (("accuracy", "points"), ("gold_log_likelihood", "nats")):
        for name in (n for n in by if n != subject):
            first, second = _paired(by[subject], metric), _paired(by[name], metric)
            if any(map(math.isinf, [*first, *second])):
                continue
            try:
                found = compare(first, second, 0)
            except ValueError:  # nothing that both have scored
                continue
            value = metrics.mean_value(found.difference, unit)
            out.append(
                Difference(metric=metric, system=subject, reference=name, value=value, p_value=found.p_value, test=found.test)
            )
    return out


def _paired(found: Sequence[Outcome], metric: str) -> list[float]:
    return [o.scores[metric][0] if metric in o.scores else o.gold_per_token for o in found]


def outcome_samples(by: Mapping[str, Sequence[Outcome]]) -> str:
    """Return a line for each answer: what was said or chosen and how it was graded; the question by id and hash alone."""
    lines = []
    for system, found in by.items():
        for o in found:
            asked = json.dumps(o.graded.conversation.to_dicts())
            chosen = o.graded.choices[o.graded.picked] if o.graded.picked is not None else ""
            line: dict[str, Any] = {
                "system": system,
                "id": o.graded.document.id,
                "prompt_sha256": hashlib.sha256(asked.encode()).hexdigest(),
                "topic": o.graded.document.topic,
                "response": chosen if o.reply is None else o.reply.text,
                "truncated": o.reply is not None and o.reply.truncated,
                "declines": None if o.declines is None else finite(o.declines),
                "scores": {name: [finite(v) for v in values] for name, values in o.scores.items()},
                "gold_log_prob": finite(o.gold.log_prob) if o.gold else None,
                "gold_tokens": o.gold.tokens if o.gold else None,
                "ungraded": (o.reply.ungraded if o.reply else None) or (o.gold.ungraded if o.gold else None),
            }
            lines.append(line)
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _limits(suite: HarnessSuite, asked: Mapping[str, Any]) -> list[str]:
    """Return what a reader has to mind."""
    out = ["Graded by lm-evaluation-harness, asked as a chat; what a system declines counts as wrong."]
    if suite.answer_tokens:
        out.append(f"Greedy answers of at most {suite.answer_tokens} tokens.")
    if suite.task.gold == "choice":
        out.append("The likeliest choice counts as the answer; the guarded system's guard reads that choice alone.")
    if asked["limit"] or asked["shard"] != "1/1":
        out.append(f"{len(suite.documents)} questions only (limit {asked['limit'] or 'none'}, shard {asked['shard']}).")
    return out
