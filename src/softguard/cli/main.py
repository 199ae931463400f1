"""The `softguard` command. Results to stdout, progress and logs to stderr; a known error is one line and exit code 2."""

import sys

import typer
from rich.markup import escape

from softguard import __version__
from softguard.cli import guard, models, runs
from softguard.cli.console import err
from softguard.errors import SoftguardError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="The guard, distilled into a soft prompt: a small LLM that answers as LLM + guard would, at the cost of the LLM alone.",
)
runs.register(app)
app.add_typer(models.app, name="models")
app.add_typer(guard.app, name="guard")


def _show_version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Print the version."),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    """Hold the options that come before a command."""


def main() -> None:
    """Run the command line."""
    try:
        app(standalone_mode=False)
    except SoftguardError as error:
        if "--debug" in sys.argv:
            raise
        err.print(f"[bold red]error:[/] {escape(str(error))}")
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        err.print("interrupted; run the same command again to go on from here")
        sys.exit(130)
    except Exception as error:
        show = getattr(error, "show", None)  # click's own usage errors
        if show is None:
            raise
        show()
        sys.exit(getattr(error, "exit_code", 2))


if __name__ == "__main__":
    main()
