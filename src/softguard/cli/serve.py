"""`softguard serve`: a run's systems behind an OpenAI-compatible interface, with a page to try them on."""

import os
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from softguard.cli.console import Stages, err
from softguard.cli.models import fetch_missing
from softguard.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(serve)


def serve(
    run: Annotated[Path, typer.Argument(help="Run directory that `distill` wrote.")],
    host: Annotated[str, typer.Option(help="Address to listen on; any but a loopback address opens it to others.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8080,
    guard: Annotated[
        str | None, typer.Option(help="Guard of the guarded system and of scores, instead of the run's own; `none` loads none.")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="Name of the environment variable that holds the key which clients have to send.")
    ] = None,
    max_body: Annotated[int, typer.Option(min=1, help="Largest request, in bytes.")] = 256 * 1024,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens, and the usual one.")] = 512,
    concurrency: Annotated[int, typer.Option(min=1, help="Answers that are made at a time, a token of each in turn.")] = 4,
    queue: Annotated[int, typer.Option(min=0, help="Requests that wait for their turn; the next gets a 429.")] = 16,
) -> None:
    """Serve base, guarded system, student and system prompt to OpenAI clients.

    POST /v1/chat/completions and GET /v1/models, with `base`, `guarded`,
    `student` and `system_prompt` as models. At / is a page that shows them side
    by side. Ctrl-C ends.
    """
    key = _key(api_key_env)
    try:
        from softguard.serving import Address, Limits, Served, create_app
        from softguard.serving import serve as run_server
    except ImportError as error:
        raise ConfigError("fastapi and uvicorn", f"no {error.name}", "pip install 'softguard[serve]'") from error
    from softguard.core import Conversation, ReplySettings
    from softguard.recipes.systems import run_systems
    from softguard.runs import RunDir

    opened = RunDir.open(run)
    chosen = None if guard == "none" else guard or opened.config["teacher"]["guard"]
    address = Address(host, port)
    address.listen().close()  # before minutes are spent on loading
    with Stages() as stages:
        fetch_missing(stages, model=opened.config["model"]["name"], guard=chosen)
        loaded = run_systems(run, chosen)
        for number, system in enumerate(loaded.systems.values(), 1):  # what requests begin with is kept; faults show now
            list(system.stream(Conversation.from_prompt("Hello"), "warm-up", ReplySettings(max_new_tokens=2)))
            stages("warming up", number, len(loaded.systems), {})
    created = int((run / "manifest.json").stat().st_mtime)
    served = Served(loaded.systems, loaded.guard, {"student": loaded.threshold}, loaded.fingerprint, created)
    limits = Limits(max_body=max_body, max_tokens=max_tokens, concurrency=concurrency, queue=queue)
    app = create_app(served, limits, api_key=key, hosts=address.names)
    if not address.local:
        who = "whoever has the key" if key else "anybody, for there is no --api-key-env"
        text = f"warning: {host} is not a loopback address: the server is open to {who}, and what is said goes unencrypted"
        err.print(text, style="bold yellow", highlight=False, soft_wrap=True)

    def ready(url: str) -> None:
        names = ", ".join(loaded.systems)
        err.print(
            f"{datetime.now():%H:%M:%S} {names}: page {url}/, interface {url}/v1; Ctrl-C ends", highlight=False, soft_wrap=True
        )

    run_server(app, address, ready)


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"a key in the environment variable {variable}", "none", f"export {variable}=... first")
    return key
