"""`softguard study`: a grid of runs, resumable, as one table and one page."""

from pathlib import Path
from typing import Annotated

import typer

from softguard.cli.console import Stages, err, out
from softguard.cli.models import fetch_missing
from softguard.errors import SoftguardError


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(study)


def study(
    file: Annotated[Path, typer.Argument(help="TOML file: base, [settings] and [[grid]] tables; see configs/study.toml.")],
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Folder of the study, runs/NAME of FILE; finished cells in it are not run again.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Cells at a time here, as Ray tasks; they share out the cores.")] = 1,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster, auto or ray://HOST:10001, that sees --out and the cache under these paths.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of public prompt sets (or SOFTGUARD_DATA).")] = None,
    validation_only: Annotated[bool, typer.Option(help="Leave the test split alone: the table has validation figures.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and stop.")] = False,
) -> None:
    """Run every combination of a grid: models, adapters, objectives, settings, seeds.

    Each cell is a run of its own in OUT/cells. Drafts are shared by all cells of
    one teacher. A cell that fails is recorded and does not stop the others;
    the same command tries it again. OUT/results.parquet has a row for each
    cell, OUT/study.html its curves. Exit code 2 where a cell failed.
    """
    from softguard.recipes.study import read_table, run_study
    from softguard.recipes.study_plan import load_study
    from softguard.reports import study_table, write_study_page

    cells = load_study(file)
    out_dir = out_dir or Path("runs") / file.stem
    if dry_run:
        for cell in cells:
            print(cell.name, " ".join(f"{k}={v}" for k, v in cell.settings.items()))
        return
    with Stages() as stages:
        for model, guard in dict.fromkeys((c.config.model.name, c.config.teacher.guard) for c in cells):
            try:
                fetch_missing(stages, model=model, guard=guard)
            except SoftguardError as error:  # its cells fail, say so in the table, and stop no other
                err.print(str(error), markup=False, soft_wrap=True)
        result = run_study(cells, out_dir, data_dir, stages, workers=workers, address=address, with_test=not validation_only)
    rows = read_table(result.table)
    write_study_page(rows, out_dir / "study.html")
    out.print(study_table(rows))
    err.print(f"table: {result.table}, page: {out_dir / 'study.html'}", soft_wrap=True)
    if result.failed:
        err.print(f"{len(result.failed)} of {len(cells)} cells failed, see {out_dir / 'failures'}", soft_wrap=True)
        raise typer.Exit(2)
