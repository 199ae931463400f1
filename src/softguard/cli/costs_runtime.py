"""`softguard costs RUN --runtime llamacpp`: the part of the command that measures in a runtime."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from softguard.cli.console import Stages, err, out
from softguard.cli.models import fetch_missing
from softguard.errors import ConfigError

RUNTIME = "llamacpp"


@dataclass(frozen=True)
class RuntimeOptions:
    """What the command line said; None and empty texts take the defaults of `RuntimeSettings`."""

    runtime: str
    export: Path | None
    base: Path | None
    out: Path | None
    prompt_tokens: str
    parallel: str
    answer_lengths: str
    speed_tokens: int | None
    rounds: int | None
    threads: int | None


def show_runtime_costs(run: Path | None, options: RuntimeOptions, as_json: bool) -> None:
    """Measure, write costs.json, costs.md and costs.svg into the new folder `--out`, and print.

    Raises:
        ConfigError: an unknown runtime, or an option that is missing or makes no sense.
    """
    if options.runtime != RUNTIME:
        raise ConfigError(f"--runtime {RUNTIME}", repr(options.runtime), "it is the one that costs are measured in")
    if run is None or options.export is None:
        missing = "no RUN" if run is None else "no --export"
        raise ConfigError("RUN and --export", missing, "run `softguard export RUN --to gguf --out DIR`, name DIR")
    given = {
        "prompt_tokens": _numbers("--prompt-tokens", options.prompt_tokens),
        "parallel": _numbers("--parallel", options.parallel),
        "answer_tokens": _numbers("--answer-lengths", options.answer_lengths),
        "speed_tokens": options.speed_tokens,
        "rounds": options.rounds,
        "threads": options.threads,
    }
    from softguard.core.files import write_atomically
    from softguard.recipes.export import check_out
    from softguard.recipes.runtime_costs import RuntimeSettings, find_files, runtime_costs
    from softguard.reports import runtime_markdown, runtime_plot, runtime_tables
    from softguard.runs import RunDir
    from softguard.runtimes.llama_server import CATALOGUE_NAME, uses_packaged_server

    settings = RuntimeSettings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    if options.out is not None:
        check_out(options.out)
    model = RunDir.open(run).config["model"]["name"]
    with Stages() as stages:
        fetch_missing(stages, model=model)
        find_files(run, options.export, options.base)
        if uses_packaged_server():
            fetch_missing(stages, model=CATALOGUE_NAME)
        found = runtime_costs(run, options.export, options.base, settings, stages)
    if options.out is not None:
        write_atomically(options.out / "costs.json", found.model_dump_json(indent=1) + "\n")
        write_atomically(options.out / "costs.md", runtime_markdown(found))
        runtime_plot(found, options.out / "costs.svg")
        err.print(f"{options.out}: costs.json, costs.md, costs.svg", soft_wrap=True, markup=False)
    if as_json:
        print(found.model_dump_json(indent=1))
        return
    for table in runtime_tables(found):
        out.print(table)
    files = (f"{s.label}: {s.model_bytes / 1e6:,.1f} MB of model files." for s in found.systems)
    for note in (*files, found.measured, *found.limits):
        out.print(note, markup=False, highlight=False)


def _numbers(option: str, text: str) -> Sequence[int] | None:
    """Return the numbers of "32,256", None where there are none.

    Raises:
        ConfigError: something else.
    """
    try:
        return tuple(int(part) for part in text.split(",")) if text else None
    except ValueError as error:
        raise ConfigError(f"{option} as 32,256", repr(text), "write whole numbers with commas between them") from error
