"""`softguard costs`: what a run's systems, a model's configuration, or the paper's models cost a device."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from softguard.cli.console import Stages, out
from softguard.cli.costs_runtime import RuntimeOptions, show_runtime_costs
from softguard.cli.models import fetch_missing
from softguard.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(costs)


def costs(
    run: Annotated[Path | None, typer.Argument(help="Run directory that `distill` wrote.")] = None,
    model_config: Annotated[
        str | None, typer.Option("--model-config", help="Instead of a run: a config.json, or one of the paper's models by name.")
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="Show the paper's table 5 beside ours, from model sizes alone.")] = False,
    rounds: Annotated[
        int | None, typer.Option(min=0, help="Timed rounds of a run's systems: 5, in a runtime 7; 0 only counts.")
    ] = None,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 48,
    virtual_tokens: Annotated[int, typer.Option(min=1, help="With --model-config: of a soft prompt in front.")] = 100,
    system_tokens: Annotated[int, typer.Option(min=1, help="With --model-config: of a hard system prompt.")] = 50,
    weight_bits: Annotated[float, typer.Option(min=0.1, help="With --model-config: bits per weight, as 4.5 for Q4.")] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Write operations and memory by system and context to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write operations by context to this .png, .svg or .pdf.")] = None,
    runtime: Annotated[str, typer.Option(help="Measure in this runtime instead: llamacpp. All below go with it.")] = "",
    export: Annotated[Path | None, typer.Option(help="The run's `softguard export --to gguf` folder.")] = None,
    base: Annotated[Path | None, typer.Option(help="GGUF that it was exported from; else the run's own.")] = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Write costs.json, .md, .svg into this new folder.")] = None,
    prompt_tokens: Annotated[str, typer.Option(help="Lengths of prompts: 32,256,1024 by default.")] = "",
    parallel: Annotated[str, typer.Option(help="Requests at once: 1,4 by default.")] = "",
    answer_lengths: Annotated[str, typer.Option(help="Answers timed to their end: 32,128,256 by default.")] = "",
    speed_tokens: Annotated[int | None, typer.Option(min=2, help="Tokens of the answers that speed is measured on: 64.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each process: one for each core.")] = None,
) -> None:
    """Show what base, guarded system, student and system prompt cost: operations, memory, and times measured here.

    One of RUN, --model-config and --paper. Operations are counted per token of
    a request at 128 to 8192 tokens, body, attention and head apart.
    """
    if runtime:
        options = RuntimeOptions(
            runtime, export, base, out_dir, prompt_tokens, parallel, answer_lengths, speed_tokens, rounds, threads
        )
        show_runtime_costs(_alone(run, model_config, paper or csv is not None or plot is not None), options, as_json)
        return
    if export or base or out_dir or prompt_tokens or parallel or answer_lengths or speed_tokens or threads:
        raise ConfigError("options that go together", "one of a runtime without --runtime", "add --runtime llamacpp")
    if sum((run is not None, model_config is not None, paper)) != 1:
        raise ConfigError("one of RUN, --model-config and --paper", "none or several", "name just one")
    if paper:
        _show_paper(as_json, csv is not None or plot is not None)
        return
    from softguard.core.files import write_atomically
    from softguard.recipes.costs import config_costs, run_costs
    from softguard.reports import cost_csv, cost_plot, cost_tables
    from softguard.runs import RunDir

    if run is not None:
        config = RunDir.open(run).config
        with Stages() as stages:
            fetch_missing(stages, model=config["model"]["name"], guard=config["teacher"]["guard"])
            report = run_costs(run, 5 if rounds is None else rounds, answer_tokens, stages)
    else:
        assert model_config is not None
        report = config_costs(
            model_config,
            virtual_tokens=virtual_tokens,
            system_tokens=system_tokens,
            weight_bits=weight_bits,
            answer_tokens=answer_tokens,
        )
    if csv is not None:
        write_atomically(csv, cost_csv(report))
    if plot is not None:
        cost_plot(report, plot)
    if as_json:
        print(report.model_dump_json(indent=1))
        return
    notes = [f"{s.label}: {s.note}." for s in report.systems if s.note]
    _show(cost_tables(report), [report.convention, *notes, report.timed, *report.limits])


def _alone(run: Path | None, model_config: str | None, others: bool) -> Path | None:
    if model_config is not None or others:
        raise ConfigError("RUN alone with --runtime", "another way to count beside it", "leave the other options out")
    return run


def _show_paper(as_json: bool, files: bool) -> None:
    from softguard.costs import compare_with_paper
    from softguard.reports import paper_tables

    if files:
        raise ConfigError("--csv and --plot with RUN or --model-config", "--paper", "take --json")
    found = compare_with_paper()
    if as_json:
        print(found.model_dump_json(indent=1))
        return
    _show(paper_tables(found), [found.finding, *dict.fromkeys(f"{r.label}: {r.source}" for r in found.rows)])


def _show(tables: Sequence[Table], notes: Sequence[str]) -> None:
    for table in tables:
        out.print(table)
    for note in notes:
        if note:
            out.print(note, markup=False, highlight=False)
