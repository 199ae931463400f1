"""The comparison of methods.

python -m benchmarks.methods --json                       # the committed rows of all studies
python -m benchmarks.methods --run 1-objectives           # run a study; goes on where it stopped
python -m benchmarks.methods --rerun CELL                 # one cell again, beside its committed row

A study is trained on validation alone; then the cells that validation chose are measured on the test split, once, and the rows
are written to `benchmarks/methods/results/STUDY.json` with the table of its cells beside them. All studies keep their cells in
one folder: what another has trained is not trained again.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table

from benchmarks.methods.rows import Row, chosen, collect
from softguard.core.files import write_atomically
from softguard.errors import ConfigError, SoftguardError
from softguard.recipes.study import run_study, write_table
from softguard.recipes.study_plan import Cell, load_study

HERE = Path(__file__).parent
RESULTS = HERE / "results"
SHOWN = ("refusal_auc", "refusal_rate", "over_refusal_rate", "benign_drift")


def studies() -> dict[str, Path]:
    """Return the studies by name."""
    return {path.stem: path for path in sorted(HERE.glob("[0-9]*.toml"))}


def committed(results: Path = RESULTS) -> list[Row]:
    """Return the rows that were written, study by study."""
    return [row for path in sorted(results.glob("*.json")) for row in json.loads(path.read_text(encoding="utf-8"))]


def run(name: str, out: Path, data_dir: Path | None, results: Path = RESULTS, workers: int = 1) -> list[Row]:
    """Run a study in the folder of all and write its rows and its table.

    Raises:
        ConfigError: no study of that name.
    """
    if name not in studies():
        raise ConfigError(f"a study among {', '.join(studies())}", repr(name), "name one of them")
    cells = load_study(studies()[name])
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=len(cells))

        def report(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
            if stage == "cells":
                progress.update(task, completed=done, total=total)

        run_study(cells, out, data_dir, report, workers=workers, with_test=False)
        run_study(chosen(cells, collect(name, cells, out)), out, data_dir, report, workers=workers)
    rows = collect(name, cells, out)
    write_atomically(results / f"{name}.json", json.dumps(rows, indent=1) + "\n")
    shutil.copyfile(write_table(cells, out), results / f"{name}.parquet")
    return rows


def rerun(name: str, data_dir: Path | None, results: Path = RESULTS) -> list[Row]:
    """Return a cell's committed row, where there is one, and the row of running it again in an empty folder.

    Raises:
        ConfigError: no study has such a cell, or several begin so.
    """
    found: list[tuple[str, Cell]] = [
        (study, cell) for study, path in studies().items() for cell in load_study(path) if cell.name.startswith(name)
    ]
    if len({cell.name for _, cell in found}) != 1:
        todo = "take `cell` of a row, or the names that `softguard study FILE --dry-run` lists"
        raise ConfigError("the name of one cell", f"{len(found)} that begin with {name!r}", todo)
    study, cell = found[0]
    with tempfile.TemporaryDirectory() as folder:
        run_study([cell], Path(folder), data_dir, lambda stage, done, total, figures: None)
        again = [row for row in collect(study, [cell], Path(folder)) if row.get("cell")]
    before = [row for row in committed(results) if row.get("cell") == cell.name]
    return [*before[:1], *({**row, "again": True} for row in again)]


def table(rows: list[Row], every: bool = False) -> Table:
    """Return the rows that validation chose, and the shared systems; or every row."""
    title = "A cell" if every else "Methods, as validation chose them"
    study = Column("study", no_wrap=True)
    drawn = Table(study, "method", "rate", "numbers", "validation AUC", *SHOWN, title=title, title_justify="left")
    for row in rows:
        if every or row.get("chosen", "cell" not in row):
            figures = [shown(row.get("metrics", {}).get(name)) for name in SHOWN]
            rate, size = (str(row.get(key, "")) for key in ("learning_rate", "num_parameters"))
            method = f"{row['method']}, again" if row.get("again") else row["method"]
            method += f", failed: {row['error'][:60]}" if row["status"] == "failed" else ""
            drawn.add_row(row["study"], method, rate, size, shown(validated(row)), *figures)
    return drawn


def validated(row: Row) -> Row | None:
    """Return the AUC that validation chose by, as a metric; None for a system that is not chosen. Older rows have no interval."""
    found = row.get("validation")
    return found and {"value": found["auc"], "low": found.get("auc_low"), "high": found.get("auc_high")}


def shown(metric: Row | None) -> str:
    """Return a figure with its interval."""
    if metric is None or metric["value"] is None:
        return "-"
    if metric["low"] is None or metric["high"] is None:
        return f"{metric['value']:.3f}"
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def main(given: list[str] | None = None) -> int:
    """Run, print; 2 where something is wrong or a cell failed."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("benchmarks.methods", description=__doc__, formatter_class=raw)
    parser.add_argument("--json", action="store_true", help="rows as JSON instead of a table")
    parser.add_argument("--run", metavar="STUDY", help=", ".join(studies()))
    parser.add_argument("--rerun", metavar="CELL", help="the first digits of its config's hash")
    parser.add_argument("--out", type=Path, default=Path("runs/methods"), help="where --run keeps the runs of all studies")
    parser.add_argument("--workers", type=int, default=1, help="cells at a time, which share out this machine's cores")
    parser.add_argument("--data-dir", type=Path, help="folder of the public sets; SOFTGUARD_DATA by default")
    arguments = parser.parse_args(given)
    try:
        if arguments.run:
            rows = run(arguments.run, arguments.out, arguments.data_dir, RESULTS, arguments.workers)
        elif arguments.rerun:
            rows = rerun(arguments.rerun, arguments.data_dir, RESULTS)
        else:
            rows = committed(RESULTS)
    except SoftguardError as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        Console().print(table(rows, every=bool(arguments.rerun)))
    if not rows:
        print("no study has been run yet: --run runs one", file=sys.stderr)
    return 2 if any(row["status"] == "failed" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
