"""`softguard guard`: list guards, check and measure them, train the embedded one."""

import inspect
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from softguard.cli.console import Stages, out

app = typer.Typer(no_args_is_help=True, help="Guards: list, check and measure them, train the embedded one.")


NameArgument = Annotated[str, typer.Argument(help="A name, NAME@WEIGHTS, NAME@http://SERVER/v1 or a .toml file.")]


@app.command("list")
def list_guards() -> None:
    """Show the guards: name, and what the file of each says of it."""
    from softguard.guards import GUARD_KINDS, GUARDS

    table = Table("name", "what it is")
    for name in GUARDS:
        factory = GUARDS.get(name)
        table.add_row(name, getattr(factory, "description", "") or _said_of(factory))
    for kind in GUARD_KINDS:
        table.add_row(f'kind = "{kind}"', f"in a .toml file: {_said_of(GUARD_KINDS.get(kind))}")
    out.print(table)


def _said_of(factory: object) -> str:
    said = inspect.getdoc(inspect.getmodule(factory)) or ""
    return said.split("\n", 1)[0].partition("`: ")[2] or said.split("\n", 1)[0]


@app.command("selftest")
def run_selftest(
    name: NameArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a guard on a handful of our own pairs, and its format against its weights' chat template; exit code 1 if it fails."""
    from softguard.guards import load_guard
    from softguard.recipes.guard_check import LEAST_AUC, selftest

    with Stages():
        found = selftest(load_guard(name))
    if as_json:
        print(json.dumps({**plain(asdict(found)), "passed": found.passed}, indent=1))
    else:
        table = Table("pairs", "number", "graded", "mean p_safe", "as expected")
        for k in found.kinds:
            table.add_row(k.kind, str(k.pairs), str(k.graded), f"{k.mean_p_safe:.3f}", f"{k.as_expected:.0%}")
        out.print(table)
        for reason, count in found.ungraded.items():
            out.print(f"ungraded {count}: {escape(reason)}", soft_wrap=True)
        out.print(f"format: {escape(found.template)}", soft_wrap=True)
        out.print(f"AUC {found.auc:.3f} (at least {LEAST_AUC}), {found.latency_ms:.1f} ms a pair")
        out.print("passed" if found.passed else "failed")
    if not found.passed:
        raise typer.Exit(1)


@app.command("evaluate")
def run_evaluate(
    name: NameArgument,
    on: Annotated[
        str, typer.Option("--on", help="written, beavertails, safe_rlhf, gptfuzz, or a .jsonl file of labelled pairs.")
    ],
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of public sets (or SOFTGUARD_DATA).", envvar="SOFTGUARD_DATA")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most as many pairs; 0 takes all.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a guard on labelled pairs: AUC, calibration, rates at p_safe 0.5, latency."""
    from softguard.guards import load_guard
    from softguard.recipes.guard_check import evaluate_on

    with Stages():
        figures = evaluate_on(load_guard(name), on, data_dir, limit, seed)
    if as_json:
        print(json.dumps(plain(figures), indent=1))
        return
    table = Table("figure", "value")
    for figure, value in figures.items():
        table.add_row(figure, f"{value:.4g}")
    out.print(table)


def plain(value: Any) -> Any:
    """Return a value as JSON can say it: what is not a number is null."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@app.command("train")
def train(
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for answers and weights; a killed run keeps its answers.")],
    data_dir: Annotated[Path | None, typer.Option(help="Folder of public sets (or SOFTGUARD_DATA).")] = None,
    model: Annotated[str, typer.Option(help="The model whose answers the guard learns to judge.")] = "smollm2-135m",
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
) -> None:
    """Train the embedded guard on permissive and own prompts, and print its report."""
    from softguard.recipes.guard_training import train_embedded_guard

    with Stages() as stages:
        report = train_embedded_guard(out_dir, data_dir, model, seed, stages)
    print(json.dumps(report, indent=1))
