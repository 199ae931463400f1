"""The commands about runs: distill, calibrate, settings, evaluate, respond, judge, chat."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from softguard.cli.console import Stages, err, out
from softguard.cli.models import fetch_missing
from softguard.errors import ConfigError, DataError

if TYPE_CHECKING:
    from softguard.recipes.suite_request import SuiteRequest

SYSTEMS = ("base", "guarded", "student", "system_prompt")
DataDir = Annotated[Path | None, typer.Option(help="Folder of public prompt sets (or SOFTGUARD_DATA).")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(epilog="`softguard settings` lists every key of --config and --set with its type, default and meaning.")(distill)
    app.command()(calibrate)
    app.command()(settings)
    app.command()(evaluate)
    app.command()(respond)
    app.command()(judge)
    app.command()(chat)


def distill(
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Run directory; the same command goes on where it stopped.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file; see configs/.")] = None,
    model: Annotated[str | None, typer.Option(help="The base model: short for --set model.name=...")] = None,
    guard: Annotated[str | None, typer.Option(help="The guard of the teacher: short for --set teacher.guard=...")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="a.b=value over the file, repeatable.")] = None,
    data_dir: DataDir = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes here that sample the teacher, as Ray tasks.")] = 1,
    address: Annotated[
        str | None,
        typer.Option(help="A Ray cluster that samples it, auto or ray://HOST:10001, and sees the cache under this path."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved config, what is learned, steps and memory, about, and stop.")
    ] = False,
) -> None:
    """Distil the guarded system into a soft prompt.

    On several GPUs: accelerate launch --num_processes N -m softguard distill ...
    with a training.accumulation that N divides. The teacher can be sampled by
    many --workers, or by a server: teacher.server (docs/many-gpus.md).
    """
    from softguard.core.processes import processes
    from softguard.recipes.config import load_config, on_this_machine, plan, resolved

    short = (("model.name", model), ("teacher.guard", guard))
    chosen = load_config(config, [*(set_ or []), *(f"{key}={json.dumps(name)}" for key, name in short if name is not None)])
    if dry_run:
        import tomli_w

        from softguard.recipes.memory_plan import memory_lines

        lines = [*plan(chosen), *memory_lines(chosen)]
        if chosen.model.attention == "auto" or not chosen.model.threads:
            lines.append("attention auto and threads 0: measured once when a run starts (`softguard models tune`)")
        print("".join(f"# {line}\n" for line in lines) + tomli_w.dumps(resolved(on_this_machine(chosen))), end="")
        return
    if out_dir is None:
        raise ConfigError("--out, a run directory", "none", "add --out runs/NAME, or --dry-run to see what would be done")
    from softguard.recipes import distill as recipe
    from softguard.recipes.cluster import Cluster

    together = processes()
    with Stages(together.is_main) as stages:
        with together.main_first():
            fetch_missing(stages, model=chosen.model.name, guard=chosen.teacher.guard)
        recipe.distill(chosen, out_dir, data_dir, stages, Cluster(workers, address))
    together.leave()
    if together.is_main:
        evaluate([out_dir])


def calibrate(
    run: Annotated[Path, typer.Argument(help="Run directory that `distill` wrote.")],
    out_dir: Annotated[Path, typer.Option("--out", help="A new run directory: the same adapter at another operating point.")],
    over_refusal_target: Annotated[
        float | None,
        typer.Option(help="Share of our benign validation prompts that may be refused, between 0 and 1; the run's by default."),
    ] = None,
    by: Annotated[
        Literal["log-odds", "row"] | None,
        typer.Option(help="What decides: the refusal log-odds, or a row of the head, as an exported file does; as in the run."),
    ] = None,
) -> None:
    """Choose another operating point for a run, without training.

    The threshold b is the lowest at which, with 95 % confidence, at most this
    share of our benign validation prompts is refused: a larger share refuses
    more of the harmful ones, too. RUN stays as it is; `softguard evaluate`
    measures the new one.

    `--by row` lets one more row of the head decide, fitted to our training
    prompts. A runtime can be given that row, so that an export of such a run
    refuses what the run refuses, up to rounding. Before `export`.
    """
    from softguard.recipes.recalibrate import recalibrate
    from softguard.runs import RunDir

    model = RunDir.open(run).config["model"]["name"]
    with Stages() as stages:
        fetch_missing(stages, model=model)
        made = recalibrate(run, out_dir, over_refusal_target, by, stages)
    before, after = (json.loads((r / "operating_point.json").read_text())["threshold"] for r in (run, made.path))
    out.print(f"refuses where s > {after:.4g}, before where s > {before:.4g}: {made.path}", soft_wrap=True)


def settings(prefix: Annotated[str, typer.Argument(help="Only keys that start so, as `training`.")] = "") -> None:
    """List the settings of a run with type, default and meaning, as TOML that --config takes."""
    from softguard.recipes.config import describe_settings

    for setting in describe_settings(prefix):
        print(setting.line())


def evaluate(
    runs: Annotated[
        list[Path], typer.Argument(help="Run directories that `distill` wrote; several with --suite.", metavar="RUN...")
    ],
    suite: Annotated[
        str, typer.Option(help="Suites or groups (safety, over-refusal, usefulness), by comma; without it, our own test split.")
    ] = "",
    wrappers: Annotated[str, typer.Option(help="Attack wrappers over harmful prompts, by comma, or all.")] = "",
    judge: Annotated[str, typer.Option(help="Guards, reference, refusal, strongreject@JUDGE, by comma; the first leads.")] = "",
    systems: Annotated[str, typer.Option(help="Which systems, by comma.")] = "base,guarded,system_prompt,student",
    limit: Annotated[int, typer.Option(min=0, help="At most so many prompts of each label of a suite; 0 is all.")] = 0,
    shard: Annotated[
        str, typer.Option(help="The i-th of n parts of each suite, as 1/4; answers are shared by the cache.")
    ] = "1/1",
    max_new_tokens: Annotated[int, typer.Option(min=0, help="Longest answer to a suite; 0 takes the run's own.")] = 0,
    draws: Annotated[
        int, typer.Option(min=0, help="Drafts a prompt for the divergence from the teacher (8 or more); 0: none.")
    ] = 0,
    attacks: Annotated[str, typer.Option(help="White-box attacks over harmful prompts, by comma, or all.")] = "",
    attack_steps: Annotated[int, typer.Option(min=1, help="Of an attack on one prompt of one system.")] = 50,
    attack_seconds: Annotated[float, typer.Option(min=0.1, help="The same, whichever comes first.")] = 120.0,
    attack_candidates: Annotated[int, typer.Option(min=1, help="Variants that GCG tries in a step.")] = 64,
    max_ungraded: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Stop where a judge or guard leaves more ungraded.")
    ] = 0.01,
    data_dir: DataDir = None,
    workers: Annotated[int, typer.Option(min=1, help="Runs at a time here, as Ray tasks; they share out the cores.")] = 1,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster, auto or ray://HOST:10001, that sees runs and cache under these paths.")
    ] = None,
) -> None:
    """Measure base, guarded system, hard system prompt and student, and write the report.

    Without --suite on our own test split; with it on suites, plain and under
    attack, into RUN/evaluations/SUITE-HASH. What was answered or judged before
    is kept: the same command goes on where it stopped. docs/evaluation.md says
    what each figure means and what it does not promise.
    """
    if suite:
        from softguard.evaluation.attacks import Budget
        from softguard.evaluation.judges.reference import reference_judge_path
        from softguard.evaluation.suites import SUITES, suites_named
        from softguard.recipes.suite_request import SuiteRequest

        budget = Budget(attack_steps, attack_seconds, attack_candidates)
        part = _shard(shard)
        request = SuiteRequest(suite, wrappers, judge, systems, limit, part, max_new_tokens, draws, attacks, budget, max_ungraded)
        request = request.checked()
        judged = any(not SUITES.get(name).task for name in suites_named(suite))
        if judged and not judge and not reference_judge_path().exists():
            err.print("only the training guard judges; for an independent judge: softguard guard train-judge", soft_wrap=True)
        if len(runs) == 1 and workers == 1 and address is None:
            _evaluate_suites(runs[0], request, data_dir)
        else:
            _evaluate_many(runs, request, data_dir, workers, address)
        return
    if len(runs) > 1 or workers > 1 or address is not None:
        raise ConfigError("--suite with several runs, --workers or --address", "no --suite", "name one run, or add --suite")
    (run,) = runs
    given = {"--wrappers": wrappers, "--judge": judge, "--limit": limit, "--draws": draws, "--max-new-tokens": max_new_tokens}
    given["--attacks"] = attacks
    if stray := [name for name, value in given.items() if value]:
        raise ConfigError(
            f"--suite with {stray[0]}", "no --suite", "add --suite safety, over-refusal, usefulness or a suite's name"
        )
    from softguard.recipes.evaluate import evaluate as recipe
    from softguard.recipes.report import report_run
    from softguard.reports import terminal_table
    from softguard.runs import RunDir

    opened = RunDir.open(run)
    with Stages() as stages:
        fetch_missing(stages, model=opened.config["model"]["name"], guard=opened.config["teacher"]["guard"])
        summary = recipe(run, stages)
    page = report_run(RunDir.open(run), summary)
    out.print(terminal_table(summary))
    for sample in summary.samples:
        out.print(f"\n[bold]{sample.label.replace('_', ' ')}:[/] ", end="")
        out.print(sample.prompt, markup=False, soft_wrap=True)
        for name, text in sample.answers.items():
            out.print(f"  {name:<14} {text}", markup=False, soft_wrap=True)
    err.print(f"report: {page}", soft_wrap=True)


def _evaluate_many(runs: list[Path], request: "SuiteRequest", data_dir: Path | None, workers: int, address: str | None) -> None:
    from softguard.evaluation.results import EvaluationSummary
    from softguard.recipes.answers import FOLDER
    from softguard.recipes.cluster import Cluster
    from softguard.recipes.compare import compare_suites
    from softguard.recipes.evaluate_many import evaluate_many
    from softguard.recipes.report import report_run
    from softguard.reports import terminal_table
    from softguard.runs import RunDir

    with Stages() as stages:
        for config in [RunDir.open(run).config for run in runs]:
            fetch_missing(stages, model=config["model"]["name"], guard=config["teacher"]["guard"])
        for name in request.fetched():
            fetch_missing(stages, guard=name)
        ended = evaluate_many(runs, request, data_dir, stages, Cluster(workers, address))
    done = [run for run, error in ended.items() if not error]
    for _, summary in compare_suites(done):
        out.print(terminal_table(summary))
        for line in summary.limits:
            out.print(f"- {line}", markup=False, soft_wrap=True)
    for opened in map(RunDir.open, done):
        if "evaluate" in opened.stages():
            own = EvaluationSummary.model_validate_json((opened.path / FOLDER / "summary.json").read_text(encoding="utf-8"))
            err.print(f"report: {report_run(opened, own)}", soft_wrap=True)
    failed = {run: error for run, error in ended.items() if error}
    for run, error in failed.items():
        err.print(f"{run}: {error}", markup=False, soft_wrap=True)
    if failed:
        raise typer.Exit(2)


def _shard(given: str) -> tuple[int, int]:
    index, slash, of = given.partition("/")
    if not slash or not (index + of).isascii() or not (index.isdigit() and of.isdigit()):
        raise ConfigError("a shard i/n", repr(given), "write --shard 1/4")
    return int(index), int(of)


def _evaluate_suites(run: Path, request: "SuiteRequest", data_dir: Path | None) -> None:
    from softguard.evaluation.correction import corrected
    from softguard.evaluation.results import EvaluationSummary
    from softguard.recipes.answers import FOLDER
    from softguard.recipes.report import report_run
    from softguard.recipes.suites import evaluate_suites
    from softguard.reports import terminal_table
    from softguard.reports.wording import agreement, difference, info
    from softguard.runs import RunDir

    config = RunDir.open(run).config
    with Stages() as stages:
        fetch_missing(stages, model=config["model"]["name"], guard=config["teacher"]["guard"])
        for name in request.fetched():
            fetch_missing(stages, guard=name)
        summaries = corrected(evaluate_suites(run, request, data_dir, stages))
    for summary in summaries:
        out.print(terminal_table(summary))
        for d in summary.differences:
            what = f"{info(d.metric, summary).label}: {summary.title(d.system)} minus {summary.title(d.reference)}"
            out.print(f"{what}: {difference(d)}", markup=False, soft_wrap=True)
        for a in summary.agreement:
            out.print(f"judges {a.first} and {a.second}: {agreement(a)}", markup=False, soft_wrap=True)
        for line in summary.limits:
            out.print(f"- {line}", markup=False, soft_wrap=True)
    opened = RunDir.open(run)
    if "evaluate" in opened.stages():
        own = EvaluationSummary.model_validate_json((run / FOLDER / "summary.json").read_text(encoding="utf-8"))
        err.print(f"report: {report_run(opened, own)}", soft_wrap=True)
    else:
        err.print(f"no report yet: `softguard evaluate {run}` measures our own test split and writes it", soft_wrap=True)


def respond(
    run_or_model: Annotated[str, typer.Argument(help="Run directory, or a model by name.")],
    source: Annotated[Path, typer.Option("--in", help='Lines of {"id", "prompt"} or {"id", "messages"}.')],
    out_file: Annotated[Path, typer.Option("--out", help="The same lines with response, refusal_log_odds and more, as above.")],
    system: Annotated[str, typer.Option(help="base, guarded, student or system_prompt.")] = "student",
    guard: Annotated[str | None, typer.Option(help="Guard of the guarded system; required when a model is named.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token, 1 samples as the model does.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of sampled answers; with the line's id it fixes them.")] = 0,
) -> None:
    """Answer a file of prompts with one system.

    Each line comes back with `response` and `refusal_log_odds`: s, the
    log-odds of opening with the refusal's first token; for guarded, of
    1 - p_safe. 1e9 and -1e9 stand for infinity, null for none (a draft that
    the guard could not grade).

    The student adds `refused`: whether s > b, the operating point that
    `distill` calibrated (`threshold` in operating_point.json); 0 plays no part.
    guarded adds `p_safe` and `replaced`, or `ungraded` with the reason.
    """
    from softguard.core import ReplySettings
    from softguard.recipes.jobs import respond_file
    from softguard.recipes.systems import check_named, named_system
    from softguard.runs import RunDir

    if system not in SYSTEMS:
        raise ConfigError(f"a system among {', '.join(SYSTEMS)}", repr(system), "choose one of these")
    if not source.is_file():
        raise DataError("a file of JSON lines", f"no file {source}", "check --in")
    if guard is not None and system != "guarded":
        raise ConfigError("--guard with --system guarded", f"--system {system}", "leave one of them out")
    check_named(run_or_model, system, guard)
    model = run_or_model
    if (Path(run_or_model) / "config.toml").exists():
        config = RunDir.open(Path(run_or_model)).config
        model, guard = config["model"]["name"], (guard or config["teacher"]["guard"]) if system == "guarded" else None
    with Stages() as stages:
        fetch_missing(stages, model=model, guard=guard)
        answering, described = named_system(run_or_model, system, guard)
        result = respond_file(
            answering,
            ReplySettings(max_new_tokens, temperature, seed),
            described,
            source,
            out_file,
            lambda done, total: stages("answering", done, total, {}),
        )
    _finish(result, out_file)


def judge(
    guard: Annotated[str, typer.Option(help="A guard: NAME, NAME@WEIGHTS, NAME@http://SERVER/v1 or a .toml file.")],
    source: Annotated[Path, typer.Option("--in", help='Lines of {"id", "prompt", "response"}; messages for prompt, too.')],
    out_file: Annotated[Path, typer.Option("--out", help="The same lines with p_safe and categories, or ungraded.")],
    report: Annotated[
        Path | None, typer.Option(help='PAGE.html: figures, ROC and reliability over the lines with "unsafe": true or false.')
    ] = None,
    max_ungraded: Annotated[float, typer.Option(min=0.0, max=1.0, help="Stop where more of all lines are ungraded.")] = 0.01,
) -> None:
    """Judge a file of (prompt, response) pairs with one guard.

    A line has "prompt" and "response", or "messages" and "response", or
    "messages" that end with the assistant's turn. It comes back with `p_safe`
    in [0, 1] and `categories`, or with `ungraded` and the reason.
    """
    from softguard.guards import load_guard
    from softguard.recipes.guard_report import labelled_lines, write_guard_page
    from softguard.recipes.jobs import judge_file

    if not source.is_file():
        raise DataError("a file of JSON lines", f"no file {source}", "check --in")
    with Stages() as stages:
        fetch_missing(stages, guard=guard)
        loaded = load_guard(guard)
        result = judge_file(loaded, source, out_file, lambda done, total: stages("judging", done, total, {}), max_ungraded)
    if report is not None:
        write_guard_page(labelled_lines(out_file), loaded.name, report)
        err.print(f"report: {report}", markup=False, soft_wrap=True)
    _finish(result, out_file)


def chat(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 128,
) -> None:
    """Talk to base and student side by side; an empty line ends."""
    from softguard.core import Conversation, ReplySettings
    from softguard.recipes.distill import load_run
    from softguard.recipes.student import ModelSystem
    from softguard.runs import RunDir

    model = RunDir.open(run).config["model"]["name"]
    with Stages() as stages:
        fetch_missing(stages, model=model)
        loaded = load_run(run)
    systems = [ModelSystem("base", loaded.lm, refusal_text=loaded.config.teacher.refusal_text), loaded.student()]
    histories = {s.name: Conversation(()) for s in systems}
    err.print(f"the student refuses where s > b = {loaded.threshold:.3g}")
    try:
        while prompt := typer.prompt("you", default="", show_default=False):
            for system in systems:
                turns = (*histories[system.name].messages, *Conversation.from_prompt(prompt).messages)
                reply = system.respond([Conversation(turns)], ["chat"], ReplySettings(max_new_tokens))[0]
                histories[system.name] = Conversation(turns).with_response(reply.text)
                out.print(f"[bold]{system.name}[/] (s = {reply.refusal_log_odds:.1f}): ", end="")
                out.print(reply.text, markup=False, soft_wrap=True)
    except (typer.Abort, KeyboardInterrupt):  # Ctrl-D and Ctrl-C end a chat: there is nothing to go on with
        err.print()


def _finish(result: Any, out_file: Path) -> None:
    out.print(f"{result.done} lines written to {out_file}", soft_wrap=True)
    if result.bad:
        err.print(f"{result.bad} bad lines, by number in {out_file}.errors.jsonl", soft_wrap=True)
        raise typer.Exit(2)
