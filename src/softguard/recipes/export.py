"""`export`: a run's student as files for another runtime, verified there, and kept only if it came out as the student is.

Everything is written into a folder beside the final one and moved there at the end: an export that fails or is killed leaves
nothing that looks like one, and the user's own model is only read.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from softguard import __version__
from softguard.adapters import SoftPrompt
from softguard.data import PromptRow
from softguard.errors import CompatibilityError, ConfigError, ExportError
from softguard.export import EXPORTERS, Exported, Exporter, StudentModel, check_carried, new_names
from softguard.export.head import speakability
from softguard.export.refusal_entry import BakedRows, restraint
from softguard.models import LanguageModel, processor_name
from softguard.recipes import export_checks as checks
from softguard.recipes.distill import Report, load_run
from softguard.recipes.export_head import StudentStates, fitted_rows, fitting_prompts, student_states
from softguard.recipes.export_readme import readme
from softguard.recipes.prompts import balanced, own_prompts
from softguard.recipes.student import ModelSystem
from softguard.runs import RunDir
from softguard.runtimes import Runtime
from softguard.sources import resolve
from softguard.sources.checks import file_sha256

AGREEMENT_WANTED = 0.97
_SEED = 0
_ROOM = 1.5


@dataclass(frozen=True)
class ExportSettings:
    """How much is measured: `positions` of the bound on virtual tokens, `prompts` of our test split answered in the runtime."""

    positions: int = 100_000
    prompts: int = 210


@dataclass(frozen=True)
class Base:
    """The GGUF that an export is made from. `own`: whether the student was trained against this very file."""

    path: Path
    sha256: str
    own: bool


@dataclass(frozen=True)
class Fitted:
    """See `fit`."""

    states: StudentStates
    rows: BakedRows


def export(run: Path, to: str, out: Path, base: Path | None, settings: ExportSettings, report: Report) -> dict[str, Any]:
    """Write the student of `run` in the format `to` into the new folder `out`, and return what verify.json says.

    Raises:
        ConfigError: an unknown format, or an `out` that exists.
        CompatibilityError: a base or a run that this format cannot carry.
        SourceError: a base file that is damaged or absent.
        ExportError: the export did not come out as the student is; nothing is kept.
        RuntimeProgramError: the runtime cannot be had or does not start.
    """
    exporter = EXPORTERS.get(to)()
    check_out(out)
    found = find_base(RunDir.open(run).config["model"]["name"], base)
    return export_student(exporter, to, load_run(run).student(), found, out, settings, report, run.resolve().name)


def check_out(out: Path) -> None:
    """Raise where something is at `out` already.

    Raises:
        ConfigError: something is.
    """
    if out.exists() or out.is_symlink():
        raise ConfigError(f"no {out} yet", "one", "choose another --out, or remove it")


def find_base(model: str, base: Path | None) -> Base | None:
    """Return the GGUF file `base`, or that of a run's model where none is named; None where that is no GGUF.

    Raises:
        ConfigError: there is no such file.
    """
    if base is not None and not base.is_file():
        raise ConfigError("a GGUF file at --base", f"no file {base}", "check the path")
    own = resolve(model)
    if base is None:
        return Base(own.path, own.sha256, True) if own.kind == "gguf" else None
    sha256 = file_sha256(base)
    return Base(base, sha256, sha256 == own.sha256)


def export_student(
    exporter: Exporter,
    to: str,
    student: ModelSystem,
    base: Base | None,
    out: Path,
    settings: ExportSettings,
    report: Report,
    title: str = "student",
    fitted: Fitted | None = None,
) -> dict[str, Any]:
    """See `export`; for a student at hand, and with head rows that another export of it had fitted."""
    check_out(out)
    model = student_model(student, base, title)
    check_carried(to, exporter, model.adapter)
    exporter.check(model)
    _check_room(out, model, base)
    if fitted is None and exporter.bakes_head:
        fitted = fit(student, settings.positions, report)
    states, rows = (fitted.states, fitted.rows) if fitted and exporter.bakes_head else (None, None)
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.mkdir()
    try:
        exported = exporter.write(model, rows, partial)
        found = _verify(student, model, exported, partial, states, rows, settings, report)
        found = {"format": to, "softguard": __version__, "run": title, **found}
        _write_papers(partial, model, exported, found)
        check_out(out)
        os.rename(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return found


def fit(student: ModelSystem, positions: int, report: Report) -> Fitted:
    """Return the head rows to bake, and the states that they were fitted to."""
    prompts = fitting_prompts()
    states = student_states(student, prompts, positions, _SEED, report)
    return Fitted(states, fitted_rows(student, states, prompts, _SEED))


def student_model(student: ModelSystem, base: Base | None, title: str) -> StudentModel:
    """Return the student as exporters see it, with new names for its virtual tokens.

    Raises:
        CompatibilityError: a system without adapter.
    """
    adapter = student.adapter
    if adapter is None:
        raise CompatibilityError("a student with an adapter", "none", "export a run's student")
    lm: LanguageModel = student.lm
    learned = adapter.virtual_tokens()
    virtual = torch.zeros(0, lm.width) if learned is None else learned.detach()
    return StudentModel(
        lm=lm,
        adapter=adapter,
        virtual_tokens=virtual,
        layout=adapter.config.layout if isinstance(adapter, SoftPrompt) else (),
        names=new_names(len(virtual), list(lm.tokenizer.get_vocab())),
        refusal_text=student.refusal_text,
        refusal_token=student.refusal_token,
        threshold=student.threshold if student.threshold is not None else 0.0,
        base=base.path if base else None,
        base_sha256=base.sha256 if base else "",
        own_base=bool(base and base.own),
        title=title,
    )


def _verify(
    student: ModelSystem,
    model: StudentModel,
    exported: Exported,
    folder: Path,
    states: StudentStates | None,
    rows: BakedRows | None,
    settings: ExportSettings,
    report: Report,
) -> dict[str, Any]:
    """Return what was measured.

    Raises:
        ExportError: something that has to hold does not.
    """
    facts = {k: v for k, v in exported.facts.items() if k != "stored_rows"}
    found: dict[str, Any] = {"facts": facts, "hardware": {"processor": processor_name(), "threads": torch.get_num_threads()}}
    prompts = _test_prompts(settings.prompts)
    measured = student if rows else _without_threshold(student)
    entry = rows.refusal if rows else None
    stored = {k: torch.as_tensor(v) for k, v in exported.facts.get("stored_rows", {}).items()}
    head = student.lm.output_head
    reference = checks.Reference(
        measured,
        exported.first_virtual_id,
        len(model.names),
        None if entry is None else stored.get("refusal", entry.head),
        None if entry is None else entry.first_token,
    )
    if rows is not None and states is not None:
        silent = stored.get("silent", rows.silent)
        found["speakability"] = asdict(speakability(head, states.all, states.all_logits, silent, len(model.names)))
        if reference.refusal_row is not None and entry is not None:
            real, row = states.elsewhere_logits, reference.refusal_row
            found["restraint"] = asdict(restraint(head, states.elsewhere, real, row, model.refusal_token, entry.first_token))
            found["refusal_id"] = reference.refusal_id
            found["baked_decision"] = checks.decisions_in_memory(reference, prompts)
    if exported.start is None:
        return found | {"runtime": None, "warnings": ["no runtime for this format is at hand: the files were written, not run"]}
    with exported.start(folder) as runtime:
        found |= _ask(runtime, reference, model, prompts, exported, report)
    found["warnings"] = _warnings(found, decided=entry is None or student.decision is not None)
    _check(found, exported.tolerance_nats)
    return found


def _ask(
    runtime: Runtime,
    reference: checks.Reference,
    model: StudentModel,
    prompts: list[PromptRow],
    exported: Exported,
    report: Report,
) -> dict[str, Any]:
    few = balanced(prompts, -(-checks.LOGIT_PROMPTS // 3), _SEED)[: checks.LOGIT_PROMPTS]
    found: dict[str, Any] = {"runtime": runtime.name}
    report("verify: tokens", 0, 1, {})
    found["tokens"] = checks.check_tokens(runtime, reference, prompts)
    if exported.first_virtual_id is not None:
        found["turns"] = checks.check_turns(runtime, reference, len(model.names))
        found["names"] = checks.check_names(runtime, reference, model.names)
    report("verify: tokens", 1, 1, {})
    found["logits"] = checks.check_logits(runtime, reference, few) | {"tolerance_mean_nats": exported.tolerance_nats}
    found["continuation"] = checks.check_continuation(runtime, reference, few)
    found["answers"] = checks.check_answers(runtime, reference, prompts, report)
    return found


def _check(found: Mapping[str, Any], tolerance: float) -> None:
    todo = "report this base model and run; no file was kept"
    if found["tokens"]["different"]:
        raise ExportError("the ids of training in the runtime", f"others in {found['tokens']['different']} conversations", todo)
    if "turns" in found and not found["turns"]["once_each"]:
        raise ExportError("each virtual token once", f"{found['turns']['virtual_tokens']} in chats of 1 to 4 turns", todo)
    if "names" in found and found["names"]["guessed_names_parsed"]:
        raise ExportError("no virtual token from a guessed name", str(found["names"]["guessed_names_parsed"]), todo)
    said = found.get("speakability")
    if said and said["largest_gap_nats"] >= 0:
        raise ExportError("virtual tokens that cannot be said", f"a gap of {said['largest_gap_nats']:.2f} nats", todo)
    gap = found["logits"]["mean_gap_nats"]
    if not gap <= tolerance:
        raise ExportError(f"log-probabilities within {tolerance} nats of the student's on the mean", f"{gap:.3f}", todo)


def _warnings(found: Mapping[str, Any], *, decided: bool) -> list[str]:
    """`decided`: the student decides by a row of the head, or the file has no place for a decision."""
    said = []
    agreement = found["answers"]["agreement"]
    if agreement < AGREEMENT_WANTED:
        todo = "" if decided else "; `softguard calibrate RUN --by row` lets the run decide by what such a file has"
        said.append(f"runtime and student agree on refusing {agreement:.1%} of prompts, less than {AGREEMENT_WANTED:.0%}{todo}")
    counts = found["answers"]["counts"]
    refused = counts["both_refuse"] + counts["runtime_only"]
    ended = found["answers"].get("runtime_refusals_that_end_there", refused)
    if found.get("refusal_id") is not None and ended < refused:
        said.append(f"{refused - ended} of {refused} refusals in the runtime went on after the refusal's text")
    return said


def _without_threshold(student: ModelSystem) -> ModelSystem:
    return ModelSystem("student", student.lm, adapter=student.adapter, refusal_text=student.refusal_text)


def _test_prompts(count: int) -> list[PromptRow]:
    return balanced(own_prompts("test"), -(-count // 3), _SEED)


def _check_room(out: Path, model: StudentModel, base: Base | None) -> None:
    """Raise where the disk has no room: before the work, not after it.

    Raises:
        ExportError: it has not.
    """
    existing = next(p for p in (out.absolute().parent, *out.absolute().parents) if p.exists())
    table = model.lm.embedding_weight.numel() * model.lm.embedding_weight.element_size()
    whole = sum(p.numel() * p.element_size() for p in model.lm.network.parameters())
    needed = int(_ROOM * (base.path.stat().st_size + table if base else whole + 2 * table))
    free = shutil.disk_usage(existing).free
    if free < needed:
        wanted = f"{needed / 1e6:.0f} MB of free disk at {existing}"
        raise ExportError(wanted, f"{free / 1e6:.0f} MB", "make room, or choose another --out")


def _write_papers(folder: Path, model: StudentModel, exported: Exported, found: Mapping[str, Any]) -> None:
    (folder / "verify.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(readme(model, exported, found), encoding="utf-8")
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    lines = "".join(f"{file_sha256(p)}  {p.relative_to(folder).as_posix()}\n" for p in files)
    (folder / "SHA256SUMS").write_text(lines, encoding="utf-8")
