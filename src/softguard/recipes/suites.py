"""`evaluate --suite`: a run's systems on public suites, plain and under attack, judged, into `evaluations/SUITE-HASH`.

Every answer, verdict and draft is kept by its content (`remembering`), so that whatever interrupts an evaluation, the same
command goes on; the hash names what was asked, of which models, and who judged, so that equal hashes of two runs can be compared.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from softguard import __version__
from softguard.core import Conversation, Reply, ReplySettings
from softguard.core.ungraded import UngradedTally
from softguard.data import PromptRow, data_folder
from softguard.evaluation.attacks import attacks_named
from softguard.evaluation.harness import HarnessSuite, harness_version
from softguard.evaluation.judges import Answered, Judge, load_judge
from softguard.evaluation.results import EvaluationSummary, SystemResult
from softguard.evaluation.scores import kind_of, said
from softguard.evaluation.suites import SUITES, suites_at_hand, suites_named
from softguard.evaluation.wrappers import PLAIN, WRAPPERS, Wrap, wrappers_at_hand
from softguard.guards import lineage, load_guard
from softguard.recipes.answers import guarding
from softguard.recipes.attacking import Attacked, attacked
from softguard.recipes.distill import LoadedRun, Report, load_run
from softguard.recipes.divergence import divergences
from softguard.recipes.evaluate import LABELS
from softguard.recipes.policies import policy_of
from softguard.recipes.prompts import take
from softguard.recipes.reference_judge import default_judges
from softguard.recipes.remembering import RememberingGuard, Store, digest, remembered_judgements, remembered_replies
from softguard.recipes.student import ModelSystem
from softguard.recipes.suite_request import SuiteRequest
from softguard.recipes.suite_tables import Asked, Measured, agreement, categories, differences, power_notes, rates
from softguard.recipes.usefulness import outcome_samples, outcome_summary, outcomes
from softguard.runs import RunDir
from softguard.teacher import GuardedSystem

SCHEMA = 1


def evaluate_suites(path: Path, request: SuiteRequest, data_dir: Path | None, report: Report) -> list[EvaluationSummary]:
    """Measure the run at `path` on suites, write `evaluations/SUITE-HASH/{samples.jsonl,summary.json}`, return the summaries.

    What is done already is read, not done again. A suite that is asked for by its group and is nowhere to be had is left out, and
    the last summary's limits say so: not everybody has access to all of them.

    Raises:
        ConfigError: see `SuiteRequest.checked`; or a suite that lm-evaluation-harness grades, and that is not installed.
        DataError: a suite that is asked for by name and nowhere to be had, or all of a group.
        GuardError: a judge, or the guard of the guarded system, graded too little (`core.ungraded`); what was said and judged is
            kept.
    """
    request = request.checked()
    if any(SUITES.get(n).task for n in suites_named(request.suites)):
        harness_version()  # nothing is loaded for what cannot be graded
    folder = data_folder(data_dir)
    had, lacking = suites_at_hand(request.suites, folder)
    loaded = load_run(path)
    chosen = {name: _chosen(rows, request, loaded.config.data.seed) for name, rows in had.items()}
    names = [j.strip() for j in request.judges.split(",") if j.strip()] or default_judges(loaded.config.teacher.guard)
    parts = _Parts.of(loaded, request, [load_judge(name) for name in dict.fromkeys(names)])
    wraps, no_wraps = wrappers_at_hand(request.wrappers, folder)
    summaries = [
        _usefulness(parts, name, rows, request, folder, report)
        if SUITES.get(name).task
        else _suite(parts, name, rows, wraps, request, report)
        for name, rows in chosen.items()
    ]
    if lacking or no_wraps:
        note = f"Left out, since their prompts are nowhere to be had here: {', '.join([*lacking, *no_wraps])}."
        summaries[-1] = summaries[-1].model_copy(update={"limits": [*summaries[-1].limits, note]})
    return summaries


@dataclass(frozen=True)
class _Parts:
    """What answers and judges, loaded once for all suites."""

    loaded: LoadedRun
    teacher: GuardedSystem
    guard: RememberingGuard
    systems: Mapping[str, ModelSystem]
    made_by: Mapping[str, Any]
    judges: Sequence[Judge]
    tallies: Mapping[str, UngradedTally]
    settings: ReplySettings

    @classmethod
    def of(cls, loaded: LoadedRun, request: SuiteRequest, judges: Sequence[Judge]) -> "_Parts":
        config, lm = loaded.config, loaded.lm
        refusal = config.teacher.refusal_text
        settings = ReplySettings(max_new_tokens=request.max_new_tokens or config.evaluation.max_new_tokens)
        prompt = config.evaluation.system_prompt
        known = {
            "base": ModelSystem("base", lm, refusal_text=refusal),
            "system_prompt": ModelSystem("system_prompt", lm, system_prompt=prompt, refusal_text=refusal),
            "student": loaded.student(),
        }
        systems = {n: known[n] for n in request.system_names() if n in known}
        files = json.loads((loaded.run.path / "manifest.json").read_text(encoding="utf-8"))["files"]
        trained = {n: d for n, d in files.items() if n.startswith(("adapter/", "operating_point", "policy"))}
        made_by: dict[str, Any] = {"base": "", "system_prompt": prompt, "student": trained}
        guard = RememberingGuard(load_guard(config.teacher.guard), max_ungraded=request.max_ungraded)
        teacher = GuardedSystem(lm, guard, refusal, policy_of(config, guard, loaded.run.path))
        tallies = {j.name: UngradedTally(j.name, request.max_ungraded) for j in judges}
        return cls(loaded, teacher, guard, systems, made_by, judges, tallies, settings)

    @property
    def training_judges(self) -> list[str]:
        """The judges that are the guard which taught the student, or ask it or one of its family."""
        own = lineage(self.guard)
        return [j.name for j in self.judges if own & j.lineage]

    def store(self, kind: str, system: str, max_new_tokens: int) -> Store:
        """Return where what a system said, at most so many tokens of it, is kept."""
        return Store(kind, *self.made_of(system, max_new_tokens))

    def made_of(self, system: str, max_new_tokens: int) -> tuple[Any, ...]:
        """Return what a system's answers of at most so many tokens depend on."""
        lm = self.loaded.lm
        return (lm.fingerprint, lm.attention, self.teacher.refusal_text, max_new_tokens, system, self.made_by[system])


def _chosen(rows: Sequence[PromptRow], request: SuiteRequest, seed: int) -> list[PromptRow]:
    labels = dict.fromkeys(r.label for r in rows)
    kept = [r for label in labels for r in take([x for x in rows if x.label == label], request.limit, seed)]
    index, of = request.shard
    return kept[index - 1 :: of]


def _suite(
    parts: _Parts,
    name: str,
    rows: Sequence[PromptRow],
    wraps: Mapping[str, Wrap],
    request: SuiteRequest,
    report: Report,
) -> EvaluationSummary:
    """Return one suite's summary, measured or read."""
    suite, run = SUITES.get(name), parts.loaded.run
    harmful = [r for r in rows if r.label == "harmful"]
    asked = {PLAIN: [r.conversation for r in rows]}
    if harmful:
        asked |= {w: [wrap(r.prompt, r.id) for r in harmful] for w, wrap in wraps.items()}
    folder = f"evaluations/{name}-{_hash(parts, name, rows, asked, request)}"
    written = run.path / folder / "summary.json"
    if f"evaluate {folder}" in run.stages() and written.exists():
        return EvaluationSummary.model_validate_json(written.read_text(encoding="utf-8"))
    replies = {w: _answers(parts, w, rows if w == PLAIN else harmful, c, request, report) for w, c in asked.items()}
    begun_by = {w: [c.response for c in conversations] for w, conversations in asked.items() if w != PLAIN}
    attacks = [_attacked(parts, a, harmful, request, report) for a in attacks_named(request.attacks) if harmful]
    replies |= {a.shown_as: {s: list(a.replies[s]) for s in request.system_names()} for a in attacks}
    by: dict[str, dict[str, Asked]] = {s: {} for s in request.system_names()}
    for wrapper in replies:
        begun = begun_by.get(wrapper, [""] * len(harmful))
        for system, given in replies[wrapper].items():
            of = [x for r, x in zip(rows, given, strict=True) if r.label == "harmful"] if wrapper == PLAIN else given
            pairs = [_to_judge(r, b, x) for r, b, x in zip(harmful, begun, of, strict=True)]
            stage = f"judged: {name}, {wrapper}, {system}"
            judgements = {
                j.name: remembered_judgements(j, pairs, parts.tallies[j.name], partial(_shown, report, f"{stage}, {j.name}"))
                for j in parts.judges
            }
            by[system][wrapper] = Asked(given, judgements)
    measured = Measured(suite, rows, by, [j.name for j in parts.judges], parts.training_judges)
    summary = _summary(parts, measured, name, request, attacks, report)
    run.write_text(f"{folder}/samples.jsonl", _samples(measured))
    run.write_text(f"{folder}/summary.json", summary.model_dump_json(indent=1))
    run.finish_stage(f"evaluate {folder}")
    return summary


def _answers(
    parts: _Parts,
    wrapper: str,
    rows: Sequence[PromptRow],
    conversations: Sequence[Conversation],
    request: SuiteRequest,
    report: Report,
) -> dict[str, list[Reply]]:
    """Return every system's replies by its name, in the table's order."""
    made: dict[str, list[Reply]] = {}
    for name, system in parts.systems.items():
        progress = partial(_shown, report, f"answers: {wrapper}, {name}")
        store = parts.store("answers", name, parts.settings.max_new_tokens)
        made[name] = remembered_replies(system, store, conversations, parts.settings, progress)
    if "guarded" in request.system_names():
        parts.guard.progress = partial(_shown, report, f"answers: {wrapper}, guarded")
        decided = guarding(parts.teacher, rows, made["base"])(conversations, [r.id for r in rows], parts.settings, None)
        # A prompt that the model could not take has no draft to be judged.
        made["guarded"] = [b if b.ungraded else g for b, g in zip(made["base"], decided, strict=True)]
    return {name: made[name] for name in request.system_names()}


def _attacked(parts: _Parts, name: str, rows: Sequence[PromptRow], request: SuiteRequest, report: Report) -> Attacked:
    """Return every system's replies under a white-box attack."""
    teacher = parts.teacher if "guarded" in request.system_names() else None
    parts.guard.progress = partial(_shown, report, f"answers: {name}, guarded")
    seed = parts.loaded.config.data.seed
    made_of = {system: parts.made_of(system, parts.settings.max_new_tokens) for system in parts.systems}
    return attacked(name, parts.systems, made_of, teacher, rows, request.budget, parts.settings, seed, report)


def _to_judge(row: PromptRow, begun: str, reply: Reply) -> Answered:
    """Return what judges read: the plain request, whatever form it was asked in, and the whole answer with what began it."""
    text = f"{begun} {said(reply)}".strip()
    return Answered(Conversation.from_prompt(row.prompt).with_response(text), kind_of(reply) == "full")


def _summary(
    parts: _Parts, measured: Measured, name: str, request: SuiteRequest, attacks: Sequence[Attacked], report: Report
) -> EvaluationSummary:
    suite, rows = measured.suite, measured.rows
    extra: dict[str, Any] = {}
    if request.draws:
        systems = list({"base": parts.systems.get("base") or _base(parts), **parts.systems}.values())
        conversations = [r.conversation for r in rows]
        tokens = parts.settings.max_new_tokens
        extra = divergences(
            parts.teacher,
            systems,
            conversations,
            request.draws,
            tokens,
            measured.clusters(rows),
            report,
            lambda system: parts.store("divergence", system, tokens),
        )
    results = [SystemResult(system=s, label=LABELS[s], metrics=rates(measured, s) | extra.get(s, {})) for s in measured.by]
    student = "student" in measured.by
    provenance = _provenance(parts, name, rows, request)
    provenance["asked"] |= {
        "wrappers": [w for w in next(iter(measured.by.values())) if w in WRAPPERS],
        "max_new_tokens": parts.settings.max_new_tokens,
        "drafts_for_divergence": request.draws,
        **({"attacks": {a.shown_as: a.facts for a in attacks}} if attacks else {}),
    }
    provenance["judges"] = {j.name: hashlib.sha256(j.fingerprint.encode()).hexdigest()[:12] for j in parts.judges}
    return EvaluationSummary(
        suite=f"{suite.title}: agreement with the training guard" if measured.led_by_the_training_guard else suite.title,
        systems=results,
        differences=differences(measured, "student") if student else [],
        judges=measured.judges if measured.harmful else [],
        training_judges=measured.training_judges if measured.harmful else [],
        agreement=agreement(measured),
        categories=categories(measured),
        samples=[],  # prompts of public sets are not ours to show
        threshold=parts.loaded.threshold if student else None,
        provenance=provenance,
        limits=[*_limits(parts, measured, request), *(a.limit for a in attacks)],
    )


def _provenance(parts: _Parts, name: str, rows: Sequence[PromptRow], request: SuiteRequest) -> dict[str, Any]:
    suite = SUITES.get(name)
    return {
        "softguard": __version__,
        "suite": {"name": name, "source": suite.source, "licence": suite.licence, "size": suite.size, "metric": suite.metric},
        "asked": {
            "prompts": {label: sum(r.label == label for r in rows) for label in dict.fromkeys(r.label for r in rows)},
            "limit": request.limit,
            "shard": f"{request.shard[0]}/{request.shard[1]}",
        },
        "model": {"reference": parts.loaded.lm.reference, "fingerprint": parts.loaded.lm.fingerprint},
        "guard": {"name": parts.guard.name, "fingerprint": parts.guard.fingerprint},
    }


def _usefulness(
    parts: _Parts, name: str, rows: Sequence[PromptRow], request: SuiteRequest, data_dir: Path | None, report: Report
) -> EvaluationSummary:
    """Return the summary of a suite that lm-evaluation-harness grades, measured or read."""
    suite, run, names = SUITES.get(name), parts.loaded.run, request.system_names()
    assert suite.task is not None
    length = request.max_new_tokens or suite.task.max_new_tokens
    made_of = [harness_version(), suite.task.settings, {ours: list(m) for ours, m in suite.task.metrics.items()}, length]
    folder = f"evaluations/{name}-{_hash(parts, name, rows, {}, request, made_of)}"
    written = run.path / folder / "summary.json"
    if f"evaluate {folder}" in run.stages() and written.exists():
        return EvaluationSummary.model_validate_json(written.read_text(encoding="utf-8"))
    by_id = {d.id: d for d in suite.task.chosen(data_dir)}
    built = HarnessSuite(suite.task, [by_id[r.id] for r in rows], data_dir, length)
    parts.guard.progress = partial(_shown, report, f"{name}: guard")
    teacher = parts.teacher if "guarded" in names else None
    found = outcomes(built, parts.systems, teacher, parts.store, lambda stage: partial(_shown, report, f"{name}: {stage}"))
    threshold = parts.loaded.threshold if "student" in found else None
    provenance = _provenance(parts, name, rows, request) | {"harness": harness_version()}
    summary = outcome_summary(suite.title, built, {n: found[n] for n in names}, threshold, provenance)
    run.write_text(f"{folder}/samples.jsonl", outcome_samples(found))
    run.write_text(f"{folder}/summary.json", summary.model_dump_json(indent=1))
    run.finish_stage(f"evaluate {folder}")
    return summary


def _limits(parts: _Parts, measured: Measured, request: SuiteRequest) -> list[str]:
    suite, tokens = measured.suite, parts.settings.max_new_tokens
    out = [f"Greedy answers of at most {tokens} tokens; judges read the plain request with the answer as it was cut."]
    if request.limit or request.shard != (1, 1):
        out.append(
            f"{len(measured.rows)} prompts only (limit {request.limit or 'none'}, shard {request.shard[0]}/{request.shard[1]})."
        )
    if measured.harmful:
        first, *others = measured.judges
        out.append(f"Judged by {first}" + (f", which leads; beside it by {', '.join(others)}." if others else "."))
    if measured.led_by_the_training_guard:
        out.append(f"{measured.judges[0]} is the training guard, or asks it: its figures are agreement with it, not safety.")
    out += [f"{judge} read only the beginning of {n} answers." for judge, n in measured.read_in_part().items()]
    if measured.harmful and request.wrappers and "student" in measured.by:
        out.append("Wrappers are fixed templates: an attacker who adapts to the system does better.")
    if suite.seen_in_training:
        out.append(f"Mind that {suite.seen_in_training}.")
    if request.draws:
        out.append(
            "Divergence is that of answers sampled at temperature 1 from prompts like these, cut as above: greedy answers, other "
            "prompts and what follows the cut are not promised. Only the decision divergence knows the student's threshold."
        )
    return out + power_notes(measured, "student", "base")


def _samples(measured: Measured) -> str:
    """Return a line for each answer: what was said, how it declined and what the judges say; the prompt by id and hash alone."""
    lines = []
    for system, by_wrapper in measured.by.items():
        for wrapper, asked in by_wrapper.items():
            rows = list(measured.rows) if wrapper == PLAIN else measured.harmful
            judged = iter(zip(*asked.judgements.values(), strict=True)) if asked.judgements else iter(())
            for row, reply in zip(rows, asked.replies, strict=True):
                verdicts = dict(zip(asked.judgements, next(judged), strict=True)) if row.label == "harmful" else {}
                lines.append(
                    {
                        "system": system,
                        "wrapper": wrapper,
                        "id": row.id,
                        "prompt_sha256": hashlib.sha256(row.prompt.encode()).hexdigest(),
                        "label": row.label,
                        "family": measured.suite.family(row),
                        "response": said(reply),
                        "kind": kind_of(reply),
                        "truncated": reply.truncated,
                        "p_kept": None if reply.p_safe is None else reply.kept,
                        "ungraded": reply.ungraded,
                        "harm": {name: j.harm for name, j in verdicts.items()},
                        "ungraded_by": {name: j.ungraded for name, j in verdicts.items() if j.ungraded},
                        "judged_in_part": [name for name, j in verdicts.items() if j.in_part],
                    }
                )
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _hash(
    parts: _Parts,
    name: str,
    rows: Sequence[PromptRow],
    asked: Mapping[str, Sequence[Conversation]],
    request: SuiteRequest,
    graded_by: Sequence[Any] = (),
) -> str:
    """Return what names this measurement: the same for every run that is asked the same of the same models by the same judges."""
    loaded = parts.loaded
    return digest(
        SCHEMA,
        name,
        [[r.id, r.label] for r in rows],
        {w: [c.to_dicts() for c in conversations] for w, conversations in asked.items()},
        list(graded_by) or [j.fingerprint for j in parts.judges],
        request.system_names(),
        [] if graded_by else [request.draws, parts.settings.max_new_tokens],
        *([parts.teacher.policy.fingerprint] if parts.teacher.policy else []),
        [loaded.lm.fingerprint, parts.guard.fingerprint, parts.teacher.refusal_text, loaded.config.evaluation.system_prompt],
        # What an attack adds depends on the run; that it was made with the same budget makes two runs comparable.
        *[[a, asdict(request.budget), loaded.config.data.seed] for a in attacks_named("" if graded_by else request.attacks)],
    )[:12]


def _base(parts: _Parts) -> ModelSystem:
    return ModelSystem("base", parts.loaded.lm, refusal_text=parts.teacher.refusal_text)


def _shown(report: Report, stage: str, done: int, total: int) -> None:
    report(stage, done, total, {})


def summaries_of(run: RunDir) -> list[tuple[str, EvaluationSummary]]:
    """Return the finished suites of a run, each with the name of its folder; those on our test split alone are not among them."""
    done = [s.removeprefix("evaluate ") for s in run.stages() if s.startswith("evaluate ")]
    files = [(folder, run.path / folder / "summary.json") for folder in done]
    return [
        (Path(folder).name, EvaluationSummary.model_validate_json(f.read_text(encoding="utf-8")))
        for folder, f in files
        if f.exists()
    ]
