"""The commands that show what was measured: report, card, compare. No model is loaded by any of them."""

from pathlib import Path
from typing import Annotated

import typer

from softguard.cli.console import err, out
from softguard.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(report)
    app.command()(card)
    app.command()(compare)


def report(
    run: Annotated[Path, typer.Argument(help="Evaluated run directory.")],
    show_harmful: Annotated[
        bool, typer.Option("--show-harmful", help="Put the text of harmful samples into the page, behind a click; needs --out.")
    ] = False,
    out_file: Annotated[Path | None, typer.Option("--out", help="File of a page with harmful text.")] = None,
) -> None:
    """Write report.html, report.md and plots/ of a run anew, from what was measured.

    The run's own page never holds harmful text. With --show-harmful a page
    that does goes to the file that --out names.
    """
    from softguard.recipes.report import evaluation_of, harmful_page, report_run
    from softguard.runs import RunDir

    if show_harmful != (out_file is not None):
        raise ConfigError("--show-harmful and --out together, or neither", "one of them", "add the other, or leave this one out")
    opened = RunDir.open(run)
    if out_file is not None:
        harmful_page(opened, out_file)
        out.print(f"{out_file}: holds harmful text", markup=False, soft_wrap=True)
        return
    out.print(str(report_run(opened, evaluation_of(opened))), markup=False, soft_wrap=True)


def card(
    run: Annotated[Path, typer.Argument(help="Evaluated run directory.")],
    out_file: Annotated[Path | None, typer.Option("--out", help="Where to write it, as README.md; none: stdout.")] = None,
) -> None:
    """Write the model card of a run in Hugging Face's format: figures with intervals, training data, licences, limits."""
    from softguard.core.files import write_atomically
    from softguard.recipes.card import model_card

    text = model_card(run)
    if out_file is None:
        print(text, end="")
        return
    write_atomically(out_file, text)
    err.print(f"card: {out_file}", markup=False, soft_wrap=True)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Evaluated run directories, or folders of studies.")],
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="HTML page to write, as compare.html; of runs, with its plots in compare.plots/ too."),
    ] = None,
) -> None:
    """Show the students of several runs in one table, and in one for each suite on which all were measured alike.

    Of studies: the cells, and their curves along learning rate, size and seeds, which are in the page alone.
    """
    from softguard.recipes.compare import compare_runs, compare_suites, study_rows, write_comparison
    from softguard.reports import study_table, terminal_table, write_study_page

    cells = study_rows(runs)
    if cells is not None:
        out.print(study_table(cells))
        if out_file is not None:
            write_study_page(cells, out_file)
            err.print(f"page: {out_file}", markup=False, soft_wrap=True)
        return
    summary, suites = compare_runs(runs), compare_suites(runs)
    out.print(terminal_table(summary))
    for limit in summary.limits:
        out.print(limit, markup=False, soft_wrap=True)
    for _, suite in suites:
        out.print(terminal_table(suite))
        for limit in suite.limits:
            out.print(f"- {limit}", markup=False, soft_wrap=True)
    if out_file is not None:
        write_comparison(summary, suites, out_file)
        err.print(f"page: {out_file}", markup=False, soft_wrap=True)
