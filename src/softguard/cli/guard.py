"""`softguard guard`: the embedded guard's training and the list of guards."""

import typer

from softguard.cli.console import out
from softguard.guards import GUARDS

app = typer.Typer(no_args_is_help=True, help="Guards: list them, train the embedded one.")


@app.command("list")
def list_guards() -> None:
    """Print the names of the guards."""
    for name in GUARDS:
        out.print(name)
