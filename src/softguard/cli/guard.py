"""`softguard guard`: the embedded guard's training and the list of guards."""

import inspect
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from softguard.cli.console import Stages, out

app = typer.Typer(no_args_is_help=True, help="Guards: list them, train the embedded one.")


@app.command("list")
def list_guards() -> None:
    """Show the guards: name, and what the file of each says of it."""
    from softguard.guards import GUARDS

    table = Table("name", "what it is")
    for name in GUARDS:
        said = inspect.getdoc(inspect.getmodule(GUARDS.get(name))) or ""
        table.add_row(name, said.split("\n", 1)[0].removeprefix(f"`{name}`: "))
    out.print(table)


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
