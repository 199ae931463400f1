"""`distill`: teacher -> soft prompt -> operating point, in a run directory that survives a kill at any moment.

Processes that were launched together (`core.processes`) share the drafts and the forward passes; the main one does all else.
"""

import hashlib
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from softguard import __version__
from softguard.adapters import ADAPTERS, Adapter, Fitted
from softguard.core.processes import processes
from softguard.core.protocols import Progress
from softguard.data import PromptRow
from softguard.errors import CompatibilityError, DataError
from softguard.evaluation.statistics import auc_estimate
from softguard.guards import load_guard
from softguard.models import AUTO, DecisionRow, LanguageModel, hardware_facts, load_model
from softguard.models.attention import GROUPED
from softguard.objectives import OBJECTIVES
from softguard.recipes.calibration import operating_point
from softguard.recipes.cluster import HERE, Cluster
from softguard.recipes.config import Config, check_together, on_this_machine, resolved, validate_config
from softguard.recipes.drafting import fill_on_workers
from softguard.recipes.paths import with_absolute_paths
from softguard.recipes.policies import POLICY_FILE, policy_hash, policy_of, policy_refusals
from softguard.recipes.prompts import RunPrompts, balanced, run_prompts
from softguard.recipes.student import ModelSystem
from softguard.recipes.teacher_cache import described_server, split_by_source, teacher_cache
from softguard.recipes.tuning import apply, as_begun, tuned
from softguard.runs import RunDir
from softguard.teacher import GuardedSystem, TeacherCache, TeacherRecord
from softguard.training import Example, TrainingResult, ValidationScore, check_shares, fit, train

Report = Callable[[str, int, int, dict[str, float]], None]
"""Called with (stage, done, total, figures)."""


def _silent(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
    return None


@dataclass(frozen=True)
class Parts:
    """The loaded pieces of a run."""

    config: Config
    lm: LanguageModel
    teacher: GuardedSystem
    prompts: RunPrompts


def load_parts(config: Config, data_dir: Path | None = None) -> Parts:
    """Load what a run needs, before any work is spent."""
    if config.model.threads:
        torch.set_num_threads(config.model.threads)
    prompts = run_prompts(config.data, data_dir)
    check_prompts(prompts)
    guard = load_guard(config.teacher.guard)
    policy = policy_of(config, guard)
    lm = load_base(config)
    return Parts(config, lm, GuardedSystem(lm, guard, config.teacher.refusal_text, policy), prompts)


def check_prompts(prompts: RunPrompts) -> None:
    """Raise where a run could not train or be validated, before a draft is sampled.

    Raises:
        DataError: training prompts of one kind, or validation prompts that lack a kind.
    """
    kinds = {"harmful" if row.label == "harmful" else "harmless" for row in prompts.train}
    if len(kinds) != 2:
        found = f"{len(prompts.train)} of one kind" if kinds else "none"
        raise DataError("harmful and harmless training prompts", found, "name sets of both kinds in data.sets")
    lacking = {"harmful", "look_alike", "benign"} - {row.label for row in prompts.validation}
    if lacking:
        raise DataError(
            "validation prompts of each kind", f"no {', '.join(sorted(lacking))}", "name one of our sets in data.sets"
        )


def load_base(config: Config) -> LanguageModel:
    """Return the base model of a config."""
    model = on_this_machine(config).model
    attention = GROUPED if model.attention == AUTO else model.attention  # until it is measured, which takes the model
    return load_model(
        model.name,
        dtype=getattr(torch, model.dtype),
        attention=attention,
        quantisation=model.quantisation,
        chat_template=model.chat_template,
    )


def distill(config: Config, out: Path, data_dir: Path | None = None, report: Report = _silent, cluster: Cluster = HERE) -> RunDir:
    """Make or finish the run at `out` and return it; stages that its manifest lists are not done again.

    The folder is bound to the config once all parts are loaded and fit: a start that fails leaves it as it was. Of several
    processes the main one alone writes and reports. With a `cluster` its workers sample the teacher; all else is done here.

    Raises:
        ConfigError: several processes that do not divide the passes of a step; a cluster without Ray or without room.
        CompatibilityError: the folder holds another run; parts that do not go together.
        DataError: prompts that a run could not train on or be validated with.
    """
    check_together(config)
    together = processes()
    report = report if together.is_main else _silent
    config = together.from_main(lambda: on_this_machine(as_begun(config, out)))
    run = RunDir.check(out, resolved(config))
    if together.from_main(lambda: "train" in run.stages()):
        return run
    if not issubclass(ADAPTERS.get(config.adapter.kind), Fitted):
        check_shares(config.training)
    torch.manual_seed(config.training.seed)
    objective = OBJECTIVES.get(config.objective.kind)(config.objective)
    with together.main_first():
        parts = load_parts(config, data_dir)
    config = together.from_main(partial(tuned, config, parts.lm, _within_stage(report, "attention and threads")))
    apply(config, parts.lm)
    parts = replace(parts, config=config)
    adapter: Adapter = ADAPTERS.get(config.adapter.kind).create(config.adapter, parts.lm, config.training.seed)
    adapter.extend(parts.teacher.renderer.render(parts.prompts.train[0].conversation))  # raises where a slot is missing
    if together.is_main:
        run = RunDir.create(out, resolved(config))
        _bind(run, provenance(parts))
        if config.teacher.policy:
            run.write_text(POLICY_FILE, Path(config.teacher.policy).read_text(encoding="utf-8"))
    started = time.perf_counter()
    teacher, rows = parts.teacher, parts.prompts
    told_apart = balanced(rows.validation, config.training.validation_prompts // 2, config.data.seed)
    harmful, look_alike = (
        [teacher.renderer.render(r.conversation) for r in told_apart if r.label == x] for x in ("harmful", "look_alike")
    )
    harmless = [r for r in rows.validation if r.label != "harmful"]
    answered = balanced(harmless, config.training.drift_prompts // 2, config.data.seed)
    if not cluster.is_this_process:
        with together.main_first():
            if together.is_main:
                sample_on_workers(parts, (rows.train, answered), cluster, report)
    train_examples = examples(parts, rows.train, "teacher: training drafts", report)
    drift_on = examples(parts, answered, "teacher: validation drafts", report)
    teacher_seconds = time.perf_counter() - started
    refusal_ids = [*teacher.renderer.encode_response(teacher.refusal_text), parts.lm.turn_end_id]
    given, validation = [e for e, _ in train_examples], (harmful, look_alike, [e for e, _ in drift_on])

    def shown_step(step: int, steps: int, figures: dict[str, float]) -> None:
        report("training", step, steps, figures)

    if isinstance(adapter, Fitted):
        fitting = partial(fit, parts.lm, adapter, given, validation, refusal_ids, config.training, out, shown_step)
        result = together.from_main(fitting)
    else:
        result = train(
            parts.lm,
            adapter,
            objective,
            given,
            validation,
            refusal_ids,
            config.training,
            out,
            shown_step,
            teacher,
            lambda step, done, total: report(f"validation at step {step}", done, total, {}),
        )
    if together.is_main:
        counted = {
            "ungraded_drafts": len(rows.train) + len(answered) - len(train_examples) - len(drift_on),
            "teacher_seconds": round(teacher_seconds, 1),
        }
        _finish(run, parts, adapter, result, {**result.best.to_dict(), **auc_interval(result.best, told_apart)}, counted, report)
    together.wait()
    return run


def auc_interval(best: ValidationScore, rows: Sequence[PromptRow]) -> dict[str, float]:
    """Return `auc_low`, `auc_high` (95 %, a bootstrap over families: a harmful prompt and its look-alikes) and `auc_n` prompts.

    It is that of the chosen checkpoint, as if no other had been tried: its width says how little so many prompts tell apart, not
    how much choosing the best has flattered it. Nothing where the scores are those of a checkpoint that held none.
    """
    harmful, look_alike = ([r.look_alike_of or r.id for r in rows if r.label == label] for label in ("harmful", "look_alike"))
    if (len(best.harmful_s), len(best.look_alike_s)) != (len(harmful), len(look_alike)):
        return {}
    found = auc_estimate(best.harmful_s, best.look_alike_s, 0, harmful, look_alike)
    return {"auc_low": found.interval.low, "auc_high": found.interval.high, "auc_n": found.n}


def _finish(
    run: RunDir,
    parts: Parts,
    adapter: Adapter,
    result: TrainingResult,
    validation: dict[str, float],
    counted: dict[str, float],
    report: Report,
) -> None:
    """Write the trained adapter with its operating point, and end the stage."""
    adapter.save(run.path / "adapter", parts.lm)
    student = ModelSystem("student", parts.lm, adapter=adapter, refusal_text=parts.teacher.refusal_text)
    point = {
        **operating_point(student, parts.prompts.validation, parts.config, _within_stage(report, "operating point")),
        "num_parameters": adapter.num_parameters,
        "best_step": result.best_step,
        "validation": validation,
        **counted,
        "training_seconds": round(result.seconds, 1),
    }
    run.write_text("operating_point.json", json.dumps(point, indent=2) + "\n")
    run.finish_stage("train")


def examples(parts: Parts, rows: Sequence[PromptRow], stage: str, report: Report) -> list[tuple[Example, PromptRow]]:
    """Return the rows with their teacher records, sampled or from the cache; ungraded rows are left out.

    Of several processes each samples and judges its part of the shards. Then the main one asks the guard again of what it left
    ungraded, and the others take what it was told: all must train on the same records.
    """
    together = processes()
    cache = teacher_cache(parts.config, parts.teacher, ask_again=together.is_main)
    by_source = split_by_source(rows)
    if together.count > 1:
        for number, part in enumerate(by_source):
            first = (together.index + number) % together.count  # in turn, for the sets of a single shard
            shown = _within_stage(report, f"{stage}, part 1 of {together.count} of set {number + 1}")
            cache.fill([r.conversation for r in part], first, together.count, shown)
        together.wait()
    records: list[TeacherRecord] = []
    with together.main_first():
        for part in by_source:
            progress = partial(_report_within, report, stage, len(records), len(rows))
            records += cache.records([r.id for r in part], [r.conversation for r in part], progress)
    by_id = {r.id: r for r in rows}
    render = parts.teacher.renderer.render
    found = [(by_id[k.id], k) for k in records]
    return [(Example(render(row.conversation), k, row.label == "harmful", row.conversation), row) for row, k in found]


def sample_on_workers(parts: Parts, splits: Sequence[Sequence[PromptRow]], cluster: Cluster, report: Report) -> None:
    """Have the workers of a cluster sample and judge what the cache lacks of the splits.

    Raises:
        SoftguardError: see `fill_on_workers`.
    """
    sets = [[r.conversation for r in part] for split in splits for part in split_by_source(split)]
    fill_on_workers(
        worker_cache,
        (json.dumps(resolved(with_absolute_paths(parts.config))),),
        teacher_cache(parts.config, parts.teacher),
        sets,
        cluster,
        gpus=int(parts.lm.device.type == "cuda"),
        progress=_within_stage(report, "teacher: shards of drafts, by workers"),
    )


def worker_cache(config: str) -> TeacherCache:
    """Return a worker's view of the cache, with a model and guard of its own; too many ungraded drafts are the caller's matter.

    A policy plays no part in what is drawn and judged.
    """
    chosen = validate_config(json.loads(config))
    teacher = GuardedSystem(load_base(chosen), load_guard(chosen.teacher.guard), chosen.teacher.refusal_text)
    return teacher_cache(chosen, teacher, ask_again=False, max_ungraded=1.0)


def _bind(run: RunDir, made_by: dict[str, Any]) -> None:
    """Write the provenance of a run, or check that a run which goes on is made by the same model, guard and prompts.

    Raises:
        CompatibilityError: it is not.
    """
    path = run.path / "provenance.json"
    if path.exists():
        before = json.loads(path.read_text())
        for key in ("model", "guard", "draft_server", "training_prompts_sha256", "policy_sha256"):
            if before.get(key) != made_by.get(key):
                raise CompatibilityError(
                    f"the {key.removesuffix('_sha256').replace('_', ' ')} that the run in {run.path} began with",
                    "another",
                    "choose another --out, or remove that folder",
                )
        return
    run.write_text("provenance.json", json.dumps(made_by, indent=2) + "\n")


def _within_stage(report: Report, stage: str) -> Progress:
    return lambda done, total: report(stage, done, total, {})


def _report_within(report: Report, stage: str, before: int, total: int, done: int, _: int) -> None:
    report(stage, before + done, total, {})


def provenance(parts: Parts) -> dict[str, Any]:
    """Return what made a run: versions, hardware, hashes of model and guard, prompt counts."""
    packages = ["torch", "transformers", "peft", "safetensors", "numpy"]
    packages += ["bitsandbytes"] if parts.lm.quantisation != "none" else []
    counts: dict[str, int] = {}
    for row in parts.prompts.train:
        key = f"{row.source}/{row.label}"
        counts[key] = counts.get(key, 0) + 1
    return {
        "softguard": __version__,
        "versions": {p: version(p) for p in packages},
        "python": platform.python_version(),
        "hardware": {**hardware_facts(parts.lm.device), "processes": processes().count},
        "model": {
            "reference": parts.lm.reference,
            "fingerprint": parts.lm.fingerprint,
            "licence": parts.lm.licence,
            "quantisation": parts.lm.quantisation,
        },
        "guard": {"name": parts.teacher.guard.name, "fingerprint": parts.teacher.guard.fingerprint},
        **policy_hash(parts.config),
        **described_server(parts.config),
        "training_prompts": counts,
        "training_prompts_sha256": hashlib.sha256("\n".join(r.prompt for r in parts.prompts.train).encode()).hexdigest(),
    }


@dataclass(frozen=True)
class LoadedRun:
    """A finished run, ready to answer."""

    run: RunDir
    config: Config
    lm: LanguageModel
    adapter: Adapter
    threshold: float
    decision: DecisionRow | None = None

    def student(self) -> ModelSystem:
        """Return the student at its calibrated operating point."""
        return ModelSystem(
            "student",
            self.lm,
            adapter=self.adapter,
            threshold=self.threshold,
            decision=self.decision,
            refusal_text=self.config.teacher.refusal_text,
            policy_refusals=policy_refusals(self.config, self.run.path),
        )


def load_run(path: Path) -> LoadedRun:
    """Return a finished run with its base model and adapter.

    Raises:
        RunError: no finished run at `path`.
        CompatibilityError: the base model is not the one that the adapter was trained with.
    """
    run = RunDir.open(path)
    config = validate_config(run.config)
    lm = load_base(config)
    adapter: Adapter = ADAPTERS.get(config.adapter.kind).load(path / "adapter", lm.device)
    with adapter.attach(lm):
        point = json.loads((path / "operating_point.json").read_text())
    threshold = float(point["threshold"])
    row = torch.tensor(point["row"]) if "row" in point else None
    decision = None if row is None else DecisionRow(row, threshold)
    return LoadedRun(run, config, lm, adapter, threshold, decision)
