"""The `softguard` command. Results to stdout, progress and logs to stderr; a known error is one line and exit code 2."""

import sys

import typer
from rich.markup import escape

from softguard import __version__
from softguard.cli import costs, export, guard, models, reports, runs, serve, study
from softguard.cli.console import err
from softguard.errors import SoftguardError

INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="The guard, distilled into a soft prompt: a small LLM that answers as LLM + guard would, at the cost of the LLM alone.",
)
runs.register(app)
reports.register(app)
costs.register(app)
serve.register(app)
study.register(app)
export.register(app)
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
    """Run the command line and exit: 0 done, 2 an error or bad lines, 130 interrupted."""
    try:
        code = int(app(standalone_mode=False) or 0)  # typer returns the code of `typer.Exit` here
    except SoftguardError as error:
        code = _failed(error)
    except OSError as error:
        where = error.filename or "a file"
        code = _failed(error, f"expected to read or write {where}; found {error.strerror or error}; check path, rights and space")
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        show = getattr(error, "show", None)  # click's own usage errors
        if show is None:
            raise
        show()
        code = int(getattr(error, "exit_code", 2))
    if code == INTERRUPTED:
        err.print("interrupted; run the same command again to go on from here", soft_wrap=True)
    sys.exit(code)


def _failed(error: Exception, message: str = "") -> int:
    if "--debug" in sys.argv:
        raise error
    err.print(f"[bold red]error:[/] {escape(message or str(error))}", soft_wrap=True)
    return 2


if __name__ == "__main__":
    main()
