"""`evaluate`: base, guarded system, hard system prompt and student on the held-out prompts, into one summary."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from softguard.core import Conversation, Reply, ReplySettings, System
from softguard.data import PromptRow
from softguard.evaluation import metrics
from softguard.evaluation.results import (
    Difference,
    EvaluationSummary,
    MetricValue,
    SampleTriple,
    SystemCurves,
    SystemResult,
    withhold,
)
from softguard.evaluation.statistics import paired_difference
from softguard.guards import load_guard
from softguard.models import LanguageModel
from softguard.recipes.answers import FOLDER, answers, guarding, store_of
from softguard.recipes.distill import Report, load_run
from softguard.recipes.drift import drifts
from softguard.recipes.prompts import balanced, own_prompts
from softguard.recipes.student import ModelSystem
from softguard.runs import RunDir
from softguard.teacher import GuardedSystem

LABELS = {"base": "Base model", "guarded": "Guarded system", "system_prompt": "Hard system prompt", "student": "Student"}
CONTEXT = 512
"""Positions that a generated token looks back on where compute is counted."""


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
    teacher = GuardedSystem(lm, load_guard(config.teacher.guard), refusal)
    prompted = ModelSystem("system_prompt", lm, system_prompt=config.evaluation.system_prompt, refusal_text=refusal)
    student = loaded.student()
    systems: list[System] = [base, teacher, prompted, student]
    shared = {"base": "", "guarded": teacher.guard.fingerprint, "system_prompt": config.evaluation.system_prompt}
    stores = {s.name: store_of(lm, s, rows, settings, refusal, shared[s.name]) for s in systems if s.name in shared}
    replies: dict[str, list[Reply]] = {}
    for system in systems:
        # The greedy drafts that the guard reads are the base model's answers.
        respond = system.respond if system is not teacher else guarding(teacher, rows, replies["base"])
        replies[system.name] = answers(loaded.run, system.name, respond, rows, settings, report, stores.get(system.name))
    p_safe = [math.nan if r.p_safe is None else r.p_safe for r in replies["guarded"]]
    states = {name: path.with_suffix(".states.safetensors") for name, path in stores.items()}
    drift = drifts(base, [prompted, student], rows, replies, states, report)
    guard_size: int | None = getattr(teacher.guard, "num_parameters", None)
    results, curves = [], {}
    for system in systems:
        values = rates(rows, replies[system.name], p_safe)
        values["benign_drift"] = drift[system.name]
        values |= costs(system, lm, guard_size, rows, settings.max_new_tokens)
        results.append(SystemResult(system=system.name, label=LABELS[system.name], metrics=values))
        s = {label: [x.refusal_log_odds for x in _of(rows, replies[system.name], label)] for label in _PROMPT_LABELS}
        curves[system.name] = SystemCurves(
            roc=metrics.refusal_curve(s["harmful"], s["look_alike"]), trade_off=metrics.refusal_curve(s["harmful"], s["benign"])
        )
    summary = EvaluationSummary(
        suite="softguard test split",
        systems=results,
        differences=differences(rows, replies),
        curves=curves,
        samples=_samples(rows, replies),
        threshold=loaded.threshold,
        provenance=json.loads((path / "provenance.json").read_text()),
        limits=[
            f"{len(rows)} prompts of our own, of topics that training did not see; greedy answers of at most "
            f"{settings.max_new_tokens} tokens; one turn, no attacks.",
            "Agreement is with the training guard. No judge of another family has read the answers, so it is not called safety.",
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
    """Return the student's rates minus those of every other system on the same prompts, clustered by topic."""
    rates_of = {"refusal_rate": "harmful", "look_alike_refusal_rate": "look_alike", "over_refusal_rate": "benign"}
    out = []
    for metric, label in rates_of.items():
        topics = [r.topic for r in rows if r.label == label]
        p = {name: metrics.refusal_probabilities(_of(rows, said, label)) for name, said in replies.items()}
        for name in (n for n in p if n != "student"):
            estimate = paired_difference(p["student"], p[name], 0, topics)
            out.append(Difference(metric=metric, system="student", reference=name, value=metrics.mean_value(estimate, "points")))
    return out


def costs(
    system: System, lm: LanguageModel, guard_parameters: int | None, rows: Sequence[PromptRow], answer_tokens: int
) -> dict[str, MetricValue]:
    """Return what a system adds to the base: numbers held, memory, and compute per generated token.

    Compute is counted as 2 floating-point operations per weight and token plus 4 T D per layer of attention, T = 512 positions
    and D the width of all heads. Added positions in front of the user's text can be cached, so they cost each generated token
    its attention to them and no more. Those after it are read anew for each request: they cost a generated token the same
    attention, and their own pass, spread over an answer of `answer_tokens`. The guard reads prompt and answer once, 2
    operations per weight for each token of both, spread alike. A guard that does not say how large it is is not measured.

    Args:
        guard_parameters: of the guarded system's guard, None where unknown.
        rows: the prompts, for their length.
        answer_tokens: length of an answer: the longer, the less a request's own work weighs.
    """
    network = lm.network.config
    layers, heads = network.num_hidden_layers, network.num_attention_heads
    head_width = getattr(network, "head_dim", None) or network.hidden_size // heads
    key_heads = getattr(network, "num_key_value_heads", None) or heads
    attention = 4 * head_width * heads * layers
    per_token = 2 * lm.num_parameters() + CONTEXT * attention
    if isinstance(system, ModelSystem):
        added = _added_positions(system, lm)
        held = system.adapter.num_parameters if system.adapter else 0
        memory = held * 4 + added.total * 2 * layers * key_heads * head_width * lm.dtype.itemsize
        extra = added.total * attention / per_token + added.after / answer_tokens
    elif isinstance(system, GuardedSystem) and guard_parameters is not None:
        read = float(np.mean([len(system.renderer.encode_response(r.prompt)) for r in rows])) + answer_tokens
        held, memory = guard_parameters, guard_parameters * 4
        extra = 2 * guard_parameters * read / answer_tokens / per_token
    else:
        return {name: metrics.not_measured(unit, "its size is not known") for name, unit in _COSTS.items()}
    figures = (float(held), memory / 2**20, extra)
    notes = {"extra_compute": f"counted, context {CONTEXT}, answers of {answer_tokens} tokens"}
    return {
        name: metrics.exact_value(figure, unit, notes.get(name, ""))
        for (name, unit), figure in zip(_COSTS.items(), figures, strict=True)
    }


_COSTS = {"added_parameters": "count", "added_memory_mib": "MiB", "extra_compute": "ratio"}


@dataclass(frozen=True)
class _Added:
    """Positions that a system adds to a request, and how many of them stand after the user's text begins."""

    total: int
    after: int


def _added_positions(system: ModelSystem, lm: LanguageModel) -> _Added:
    """Return what a system adds, told apart by what two requests begin with alike."""
    requests = [Conversation.from_prompt(text) for text in ("a", "b")]
    own, plain = ([one.prompt_ids(r) for r in requests] for one in (system, ModelSystem("plain", lm)))
    alike = [next(i for i, (x, y) in enumerate(zip(*ids, strict=False)) if x != y) for ids in (own, plain)]
    front = alike[0] - alike[1]
    total = len(own[0]) - len(plain[0])
    return _Added(total, total - front)


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
