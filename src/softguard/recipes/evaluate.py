"""`evaluate`: base, guarded system, hard system prompt and student on the held-out prompts, into one summary."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from softguard.core import Reply, ReplySettings, System
from softguard.data import PromptRow
from softguard.errors import DataError
from softguard.evaluation import metrics
from softguard.evaluation.comparisons import compare, power_sentence
from softguard.evaluation.results import (
    CategoryRate,
    Difference,
    EvaluationSummary,
    MetricValue,
    SampleTriple,
    SystemCurves,
    SystemResult,
    withhold,
)
from softguard.guards import load_guard
from softguard.recipes.answers import FOLDER, answers, guarding, store_of
from softguard.recipes.costs import added_costs
from softguard.recipes.distill import Report, load_run
from softguard.recipes.drift import drifts
from softguard.recipes.policies import policy_of
from softguard.recipes.prompts import balanced, own_prompts
from softguard.recipes.student import ModelSystem
from softguard.runs import RunDir
from softguard.teacher import GuardedSystem

LABELS = {"base": "Base model", "guarded": "Guarded system", "system_prompt": "Hard system prompt", "student": "Student"}


def evaluate(path: Path, report: Report) -> EvaluationSummary:
    """Measure the run at `path` on our test split and write `evaluations/test/summary.json`; done work is kept."""
    if "evaluate" in RunDir.open(path).stages():
        return EvaluationSummary.model_validate_json((path / FOLDER / "summary.json").read_text())
    loaded = load_run(path)
    config, lm = loaded.config, loaded.lm
    torch.set_num_threads(min(config.model.threads or torch.get_num_threads(), os.cpu_count() or 1))
    rows = balanced(own_prompts("test"), config.evaluation.prompts_per_label, config.data.seed)
    settings = ReplySettings(max_new_tokens=config.evaluation.max_new_tokens)
    refusal = config.teacher.refusal_text
    base = ModelSystem("base", lm, refusal_text=refusal)
    guard = load_guard(config.teacher.guard)
    policy = policy_of(config, guard, path)
    teacher = GuardedSystem(lm, guard, refusal, policy)
    prompted = ModelSystem("system_prompt", lm, system_prompt=config.evaluation.system_prompt, refusal_text=refusal)
    student = loaded.student()
    systems: list[System] = [base, teacher, prompted, student]
    shared = {
        "base": "",
        "guarded": guard.fingerprint + (policy.fingerprint if policy else ""),
        "system_prompt": config.evaluation.system_prompt,
    }
    stores = {s.name: store_of(lm, s, rows, settings, refusal, shared[s.name]) for s in systems if s.name in shared}
    replies: dict[str, list[Reply]] = {}
    for system in systems:
        # The greedy drafts that the guard reads are the base model's answers.
        respond = system.respond if system is not teacher else guarding(teacher, rows, replies["base"])
        replies[system.name] = answers(loaded.run, system.name, respond, rows, settings, report, stores.get(system.name))
    p_safe = [math.nan if r.p_safe is None else r.p_safe for r in replies["guarded"]]
    states = {name: path.with_suffix(".states.safetensors") for name, path in stores.items()}
    drift = drifts(base, [prompted, student], rows, replies, states, report)
    results, curves = [], {}
    for system in systems:
        values = rates(rows, replies[system.name], p_safe)
        values |= drift[system.name]
        values["truncated_rate"] = metrics.rate_of([math.nan if r.ungraded else float(r.truncated) for r in replies[system.name]])
        values |= added_costs(system, lm, teacher.guard, rows, settings.max_new_tokens)
        results.append(SystemResult(system=system.name, label=LABELS[system.name], metrics=values))
        s = {label: [x.refusal_log_odds for x in _of(rows, replies[system.name], label)] for label in _PROMPT_LABELS}
        curves[system.name] = SystemCurves(
            roc=metrics.refusal_curve(s["harmful"], s["look_alike"]), trade_off=metrics.refusal_curve(s["harmful"], s["benign"])
        )
    summary = EvaluationSummary(
        suite="softguard test split",
        systems=results,
        differences=differences(rows, replies),
        categories=categories(rows, replies),
        curves=curves,
        samples=_samples(rows, replies),
        threshold=loaded.threshold,
        provenance=json.loads((path / "provenance.json").read_text()),
        limits=[
            f"{len(rows)} prompts of our own, of topics that training did not see; greedy answers of at most "
            f"{settings.max_new_tokens} tokens; one turn, no attacks.",
            "Agreement is with the training guard. No judge of another family has read the answers, so it is not called safety.",
            *power_notes(rows, replies),
        ],
    )
    loaded.run.write_text(f"{FOLDER}/summary.json", summary.model_dump_json(indent=1))
    loaded.run.finish_stage("evaluate")
    return summary


_PROMPT_LABELS = ("harmful", "look_alike", "benign")


def rates(rows: Sequence[PromptRow], replies: Sequence[Reply], p_safe: Sequence[float]) -> dict[str, MetricValue]:
    """Return the table's rates of one system; intervals are clustered by topic, which twins share."""

    def topics(label: str) -> list[str]:
        return [r.topic for r in rows if r.label == label]

    by = {label: _of(rows, replies, label) for label in _PROMPT_LABELS}
    s = {label: [r.refusal_log_odds for r in by[label]] for label in by}
    return {
        "refusal_rate": metrics.refusal_rate(by["harmful"], 0, topics("harmful")),
        "over_refusal_rate": metrics.over_refusal_rate(by["benign"], 0, topics("benign")),
        "look_alike_refusal_rate": metrics.refusal_rate(by["look_alike"], 0, topics("look_alike")),
        "refusal_auc": metrics.refusal_auc(s["harmful"], s["look_alike"], 0, topics("harmful"), topics("look_alike")),
        "guard_agreement": metrics.guard_agreement(replies, p_safe, 0, [r.topic for r in rows]),
    }


def differences(rows: Sequence[PromptRow], replies: Mapping[str, Sequence[Reply]]) -> list[Difference]:
    """Return the student's rates minus those of every other system on the same prompts, each with a test over topics."""
    rates_of = {"refusal_rate": "harmful", "look_alike_refusal_rate": "look_alike", "over_refusal_rate": "benign"}
    out = []
    for metric, label in rates_of.items():
        topics = [r.topic for r in rows if r.label == label]
        p = {name: metrics.refusal_probabilities(_of(rows, said, label)) for name, said in replies.items()}
        for name in (n for n in p if n != "student"):
            try:
                found = compare(p["student"], p[name], 0, topics)
            except DataError:  # nothing that both have scored
                continue
            value = metrics.mean_value(found.difference, "points")
            tested = {"p_value": found.p_value, "test": found.test}
            out.append(Difference(metric=metric, system="student", reference=name, value=value, **tested))
    return out


def power_notes(rows: Sequence[PromptRow], replies: Mapping[str, Sequence[Reply]]) -> list[str]:
    """Return what difference between the student and the base model each label's prompts can show."""
    out = []
    for what, label in (("refusal", "harmful"), ("refusal on look-alikes", "look_alike"), ("over-refusal", "benign")):
        topics = [r.topic for r in rows if r.label == label]
        student, base = (metrics.refusal_probabilities(_of(rows, replies[name], label)) for name in ("student", "base"))
        out.append(power_sentence(student, base, what, "student", "base", topics))
    return [note for note in out if note]


def categories(rows: Sequence[PromptRow], replies: Mapping[str, Sequence[Reply]]) -> list[CategoryRate]:
    """Return how often each system refuses harmful prompts of each category of harm."""
    out = []
    names = dict.fromkeys(r.harm_category or r.topic for r in rows if r.label == "harmful")
    for name in names:
        inside = [r.label == "harmful" and (r.harm_category or r.topic) == name for r in rows]
        for system, said in replies.items():
            value = metrics.refusal_rate([x for x, kept in zip(said, inside, strict=True) if kept])
            out.append(CategoryRate(category=name, metric="refusal_rate", system=system, value=value))
    return out if len(names) > 1 else []


def _of(rows: Sequence[PromptRow], replies: Sequence[Reply], label: str) -> list[Reply]:
    return [reply for row, reply in zip(rows, replies, strict=True) if row.label == label]


def _samples(rows: Sequence[PromptRow], replies: Mapping[str, Sequence[Reply]]) -> list[SampleTriple]:
    """Return one prompt of each label with all answers; the harmful one is redacted."""
    out = []
    for label in ("benign", "look_alike", "harmful"):
        i = next(k for k, r in enumerate(rows) if r.label == label)
        hide = label == "harmful"
        answers = {
            name: withhold(x.text, answer=True, refused=metrics.refuses(x)) if hide else x.text
            for name, x in ((name, given[i]) for name, given in replies.items())
        }
        out.append(SampleTriple(prompt=rows[i].prompt, label=label, redacted=hide, answers=answers))
    return out
