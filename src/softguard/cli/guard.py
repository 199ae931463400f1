"""`softguard guard`: list guards, check, measure and calibrate them, train the embedded one and the reference judge."""

import inspect
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from softguard.cli.console import Stages, err, out
from softguard.errors import ConfigError

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
    plots: Annotated[Path | None, typer.Option(help="A page to write, with ROC and reliability: PAGE.html.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a guard on labelled pairs: AUC, calibration, rates at p_safe 0.5, latency."""
    from softguard.guards import load_guard
    from softguard.recipes.guard_check import labelled_pairs
    from softguard.recipes.guard_report import evaluate_with_page

    with Stages():
        figures = evaluate_with_page(load_guard(name), labelled_pairs(on, data_dir, limit, seed), plots)
    if as_json:
        print(json.dumps(plain(figures), indent=1))
        return
    table = Table("figure", "value")
    for figure, value in figures.items():
        table.add_row(figure, f"{value:.4g}")
    out.print(table)


@app.command("calibrate")
def run_calibrate(
    name: NameArgument,
    on: Annotated[str, typer.Option("--on", help="A set as for `evaluate`: half fits the curve, half measures it.")],
    out_file: Annotated[Path, typer.Option("--out", help="The calibrated guard, GUARD.toml; reliability plots go beside it.")],
    method: Annotated[str, typer.Option(help="temperature, or isotonic (a thousand labels or more).")] = "temperature",
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of public sets (or SOFTGUARD_DATA).", envvar="SOFTGUARD_DATA")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most as many pairs; 0 takes all.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
) -> None:
    """Fit p_safe to labels, and write a guard file that any command takes as --guard."""
    from softguard.guards import load_guard
    from softguard.recipes.guard_calibration import calibrate_guard

    if method not in ("temperature", "isotonic"):
        raise ConfigError("temperature or isotonic", repr(method), "choose one of them")
    # The file names the guard as seen from its own folder.
    named = str(Path(name).expanduser().resolve()) if name.endswith(".toml") else name
    with Stages():
        found = calibrate_guard(
            load_guard(name),
            named,
            on,
            out_file,
            method=method,  # type: ignore[arg-type]
            data_dir=data_dir,
            limit=limit,
            seed=seed,
        )
    table = Table("figure, on the half that did not fit", "before", "after")
    for figure, value in found.before.items():
        table.add_row(figure, f"{value:.4g}", f"{found.after[figure]:.4g}")
    out.print(table)
    out.print(f"written: {out_file}, {', '.join(p.name for p in found.plots)}", markup=False, soft_wrap=True)


@app.command("correct")
def run_correct(
    evaluation: Annotated[Path, typer.Argument(help="RUN/evaluations/SUITE-HASH.")],
    labels: Annotated[Path, typer.Option(help='Lines {"system", "id", "unsafe"} about its answers; "wrapper" under attack.')],
    judge: Annotated[str, typer.Option(help="Which judge; without it, the one that leads.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
) -> None:
    """Correct attack success for the judge's errors by at least 200 labels of the same systems' answers (Rogan and Gladen).

    Full refusals count as safe and need no label. The rate as judged always
    stands beside the corrected one.
    """
    from softguard.recipes.judge_error import correct_rates

    found = correct_rates(evaluation, labels, judge, seed)
    table = Table("system", "asked", "as judged", "corrected")
    for x in found:
        cells = [f"{e.value:.1%} ({e.interval.low:.1%} to {e.interval.high:.1%})" for e in (x.rate.uncorrected, x.rate.corrected)]
        table.add_row(x.system, x.wrapper, cells[0], cells[1] + (", cut at 0 or 1" if x.rate.at_the_edge else ""))
    out.print(table)
    if found:
        q = found[0].rate.quality
        out.print(f"on {q.unsafe + q.safe} labels: sensitivity {q.sensitivity:.3f}, specificity {q.specificity:.3f}")


@app.command("train-judge")
def run_train_judge(
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of public sets (or SOFTGUARD_DATA).", envvar="SOFTGUARD_DATA")
    ] = None,
    out_file: Annotated[Path | None, typer.Option("--out", help="JUDGE.toml; else where `evaluate --suite` looks.")] = None,
) -> None:
    """Train the reference judge on public labels (CC BY-NC): another architecture than mini, for judging mini's students."""
    from softguard.evaluation.judges.reference import reference_judge_path
    from softguard.recipes.reference_judge import train_reference_judge

    report = train_reference_judge(data_dir, out_file)
    print(json.dumps(plain(report), indent=1))
    err.print(f"written: {out_file or reference_judge_path()}", markup=False, soft_wrap=True)


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
