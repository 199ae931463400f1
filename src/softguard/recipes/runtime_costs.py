"""`costs --runtime`: what the systems of a run cost in the runtime that ships them, unmodified, with their real files.

The guarded system is two processes: the base model and a guard of its size, which is a copy of the base's file, so that its
pages are its own. It reads question and answer and gives a verdict of one token; what it says is not used.
"""

import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from softguard import __version__
from softguard.costs.runtime_results import RuntimeCell, RuntimeCosts, RuntimeSystem, SafeAnswer, Spread, coverage
from softguard.errors import CompatibilityError, ConfigError
from softguard.models import processor_name
from softguard.recipes.distill import Report
from softguard.recipes.export import Base, find_base
from softguard.recipes.runtime_timing import PROCESSES, SYSTEMS, Bench, Taken
from softguard.runs import RunDir
from softguard.runtimes import LlamaServer, TimedRuntime, find_llama_server
from softguard.sources.checks import file_sha256

Start = Callable[[Path, int, int], AbstractContextManager[TimedRuntime]]
"""Starts a process with a model, so many slots, and so many positions in each."""
_ROOM, _WHOLE = 512, 256
_MEASURED = (
    "Greedy, as many tokens as asked whatever they say; a new text in each request; systems in turn in every round, medians over "
    "{rounds} rounds, ratios to the base in the same round. Times are a client's, from sending the ids. The runtime keeps what "
    "requests begin with, as it does by default, of all systems but the recomputed student. The guarded system may show nothing "
    "before its guard has read the whole answer; the guard's instruction is taken to be kept already. Memory is the sum of the "
    "processes' peaks, mapped files among them; the cache of whole prompts in RAM is off."
)
_LIMITS = (
    "The guard is a copy of the base model: what a guard of its size costs, not what one is worth.",
    "A harmful request is timed as an answer of as many tokens as the export's refusal has: whether the student refuses is "
    "measured in exports and evaluations, not here.",
    "Peaks of one process count its mapped model whole, though the system may drop those pages.",
)


@dataclass(frozen=True)
class RuntimeSettings:
    """How much is measured.

    Attributes:
        prompt_tokens: lengths of users' texts.
        parallel: numbers of requests at once; each has processes of its own with as many slots.
        answer_tokens: lengths of answers whose time until they may be shown is measured, one request at a time.
        speed_tokens: of the answers that first token and tokens per second are measured with.
        rounds: timed, after one short turn each that is not.
        threads: of each process; only one works at a time.
    """

    prompt_tokens: tuple[int, ...] = (32, 256, 1024)
    parallel: tuple[int, ...] = (1, 4)
    answer_tokens: tuple[int, ...] = (32, 128, 256)
    speed_tokens: int = 64
    rounds: int = 7
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "parallel", "answer_tokens"):
            values: tuple[int, ...] = getattr(self, name)
            if not values or min(values) < 1:
                raise ConfigError(f"{name} of one or more numbers from 1", str(values), "correct it")
            object.__setattr__(self, name, tuple(sorted(set(values))))
        if self.speed_tokens < 2 or self.rounds < 1 or self.threads < 1:
            found = f"{self.speed_tokens}, {self.rounds}, {self.threads}"
            raise ConfigError("speed_tokens from 2, rounds and threads from 1", found, "correct it")

    @property
    def answer_prompt(self) -> int:
        """The prompt length that answers are timed at: the middle one."""
        return self.prompt_tokens[len(self.prompt_tokens) // 2]


@dataclass(frozen=True)
class Files:
    """What is measured: the GGUFs of base and student, the run's texts, and whether the export says the refusal in one token."""

    model: str
    base: Path
    student: Path
    system_prompt: str
    refusal_text: str
    refusal_in_one_token: bool = False


def runtime_costs(run: Path, export: Path, base: Path | None, settings: RuntimeSettings, report: Report) -> RuntimeCosts:
    """Return what the systems of a run cost in llama.cpp.

    Args:
        run: that `distill` wrote.
        export: folder that `softguard export RUN --to gguf` wrote.
        base: the GGUF that the export was made from; None is the run's own.
        settings: how much.
        report: progress.

    Raises:
        ConfigError: a folder that is no such export.
        CompatibilityError: an export of another base.
        RuntimeProgramError: llama-server cannot be had, does not start or does not answer.
    """
    files, hashes = find_files(run, export, base)
    program = find_llama_server()

    def start(model: Path, slots: int, context: int) -> LlamaServer:
        arguments = ("--cache-ram", "0")
        return LlamaServer(model, program, threads=settings.threads, context=context, slots=slots, arguments=arguments)

    return measure(files, settings, start, report, hashes)


def find_files(run: Path, export: Path, base: Path | None) -> tuple[Files, dict[str, str]]:
    """Return the files of a run's export, and their hashes. See `runtime_costs`."""
    config = RunDir.open(run).config
    wanted, todo = f"a folder of `softguard export --to gguf` at {export}", f"run `softguard export {run} --to gguf --out DIR`"
    try:
        verified = json.loads((export / "verify.json").read_text(encoding="utf-8"))
        facts, one_token = verified["facts"], verified.get("refusal_id") is not None
        student, base_sha256 = export / str(facts["file"]), str(facts["base_sha256"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(wanted, str(error)[:120], todo) from error
    if not student.name.endswith(".gguf") or "head_was_tied" not in facts or not student.is_file():
        raise ConfigError(wanted, f"{student.name} that is none", todo)
    found: Base | None = find_base(config["model"]["name"], base)
    if found is None:
        raise CompatibilityError("a base model in GGUF", config["model"]["name"], "name the export's base with --base FILE.gguf")
    if found.sha256 != base_sha256:
        todo = "name with --base the file that the export was made from"
        raise CompatibilityError(f"the base {base_sha256[:12]} of this export", found.sha256[:12], todo)
    texts = config["evaluation"]["system_prompt"], config["teacher"]["refusal_text"]
    files = Files(config["model"]["name"], found.path, student, *texts, one_token)
    return files, {"base": base_sha256, "student": file_sha256(student)}


def measure(
    files: Files, settings: RuntimeSettings, start: Start, report: Report, hashes: Mapping[str, str] | None = None
) -> RuntimeCosts:
    """Return what the systems cost with the processes that `start` gives."""
    began, load = time.time(), os.getloadavg() if hasattr(os, "getloadavg") else (float("nan"),)
    cells: list[RuntimeCell] = []
    answers: list[SafeAnswer] = []
    refusal_tokens = 0
    context = -(-(settings.prompt_tokens[-1] + max(settings.answer_tokens[-1], settings.speed_tokens) + _ROOM) // _WHOLE) * _WHOLE
    turns = len(SYSTEMS) * settings.rounds
    total, done = turns * (len(settings.parallel) * len(settings.prompt_tokens) + 1), 0

    def progress() -> None:
        nonlocal done
        done += 1
        report("measuring", done, total, {})

    report("measuring", 0, total, {})
    with tempfile.TemporaryDirectory(prefix="softguard-guard-") as folder:
        guard = Path(folder) / f"guard-{files.base.name}"
        shutil.copyfile(files.base, guard)
        processes = {"base": files.base, "guard": guard, "prompted": files.base, "student": files.student}
        for parallel in settings.parallel:
            with Bench(processes, files.system_prompt, parallel, lambda model, slots: start(model, slots, context)) as bench:
                runtime = bench.runtime
                for system in SYSTEMS:
                    bench.turn(system, settings.prompt_tokens[0], parallel, 2, (2,))
                for length in settings.prompt_tokens:
                    cells += _cells(bench, settings, length, parallel, progress)
                if parallel == settings.parallel[0]:
                    refusal_tokens = 1 if files.refusal_in_one_token else bench.count(files.refusal_text)
                    answers = _answers(bench, settings, refusal_tokens, progress)
    sizes = {name: path.stat().st_size for name, path in {**processes, "guard": files.base}.items()}
    return RuntimeCosts(
        runtime=runtime,
        model=files.model,
        settings={
            **{name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()},
            "answer_prompt_tokens": settings.answer_prompt,
            "refusal_tokens": refusal_tokens,
            "context_of_a_slot": context,
        },
        interval_coverage=coverage(settings.rounds),
        systems=[
            RuntimeSystem(system=s, label=label, processes=len(PROCESSES[s]), model_bytes=sum(sizes[p] for p in PROCESSES[s]))
            for s, label in SYSTEMS.items()
        ],
        cells=cells,
        answers=answers,
        measured=_MEASURED.format(rounds=settings.rounds),
        provenance=_provenance(files, settings, hashes or {}, load, time.time() - began),
        limits=list(_LIMITS),
    )


def _rounds(
    settings: RuntimeSettings, turn: Callable[[str], list[Taken]], progress: Callable[[], None]
) -> dict[str, list[list[Taken]]]:
    """Return what each system took in each round; who begins moves on by one in every round."""
    names = list(SYSTEMS)
    taken: dict[str, list[list[Taken]]] = {name: [] for name in names}
    for number in range(settings.rounds):
        at = number % len(names)
        for name in names[at:] + names[:at]:
            taken[name].append(turn(name))
            progress()
    return taken


def _cells(
    bench: Bench, settings: RuntimeSettings, length: int, parallel: int, progress: Callable[[], None]
) -> list[RuntimeCell]:
    count = settings.speed_tokens
    taken = _rounds(settings, lambda name: bench.turn(name, length, parallel, count, (count,)), progress)
    first = {name: [fmean(t.first for t in turn) for turn in rounds] for name, rounds in taken.items()}
    rate = {name: [fmean(t.rate for t in turn) for turn in rounds] for name, rounds in taken.items()}
    return [
        RuntimeCell(
            system=name,
            prompt_tokens=length,
            parallel=parallel,
            read_tokens=round(fmean(t.read_tokens for turn in rounds for t in turn)),
            first_token_ms=Spread.of([1000 * x for x in first[name]]),
            tokens_per_second=Spread.of(rate[name]),
            first_token_ratio=_ratio(first[name], first["base"]),
            tokens_per_second_ratio=_ratio(rate[name], rate["base"]),
            peak_memory_bytes=bench.peak_bytes(name),
        )
        for name, rounds in taken.items()
    ]


def _answers(bench: Bench, settings: RuntimeSettings, refusal_tokens: int, progress: Callable[[], None]) -> list[SafeAnswer]:
    lengths = settings.answer_tokens
    count = max(lengths[-1], refusal_tokens)
    taken = _rounds(settings, lambda name: bench.turn(name, settings.answer_prompt, 1, count, lengths), progress)
    found: list[SafeAnswer] = []
    for tokens in lengths:
        guarded = [turn[0].shown(tokens) for turn in taken["guarded"]]
        shown = {("benign", name): [turn[0].shown(tokens) for turn in rounds] for name, rounds in taken.items()}
        shown["harmful", "guarded"] = guarded
        for name in ("student_recomputed", "student_cached"):
            shown["harmful", name] = [turn[0].shown(refusal_tokens) for turn in taken[name]]
        found += [
            SafeAnswer(
                system=name,
                request="harmful" if request == "harmful" else "benign",
                answer_tokens=tokens,
                answer_ms=Spread.of([1000 * x for x in own]),
                speedup=_ratio(guarded, own),
            )
            for (request, name), own in shown.items()
        ]
    return found


def _ratio(own: Sequence[float], other: Sequence[float]) -> Spread:
    return Spread.of([a / b for a, b in zip(own, other, strict=True)])


def _provenance(
    files: Files, settings: RuntimeSettings, hashes: Mapping[str, str], load: Sequence[float], seconds: float
) -> dict[str, Any]:
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": settings.threads,
        "system": platform.platform(),
        "load_before": round(load[0], 2),
        "softguard": __version__,
        "base": files.base.name,
        "student": files.student.name,
        "sha256": dict(hashes),
        "seconds": round(seconds),
    }
