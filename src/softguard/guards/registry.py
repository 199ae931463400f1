"""Guards by reference: a name, a name on other weights or on a server, or a file of settings.

mini                                    a guard by name, with its own weights
llama-guard-3-1b@hf:org/name@revision   the same format on other weights: anything that `softguard.sources` takes
llama-guard-3-8b@http://host:8000/v1    the same format, asked of an OpenAI-compatible server
guards/strict.toml                      settings of a kind: `kind = "ensemble"`, "cascade", "openai_server", ...
"""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, get_type_hints, runtime_checkable

from pydantic import ValidationError

from softguard.core import Guard
from softguard.errors import ConfigError
from softguard.registry import Registry

GuardFactory = Callable[[], Guard]
GUARDS: Registry[GuardFactory] = Registry("guard", "softguard.guards")
"""Guards that need no settings."""

GUARD_KINDS: Registry[Callable[..., Guard]] = Registry("kind of guard", "softguard.guard_kinds")
"""Guards made of settings: a factory takes `config`, of the pydantic class that its annotation names, and `folder`, from which
relative paths go."""

SOURCES: dict[str, tuple[str, ...]] = {}
"""What a guard fetches, by name: references as `softguard.sources` takes them."""


@runtime_checkable
class Movable(Protocol):
    """A factory whose guard can run on other weights, or on a server."""

    def at(self, where: str) -> Guard:
        """Return the guard on these weights."""
        ...


def load_guard(reference: str) -> Guard:
    """Return the guard that `reference` names, ready to judge.

    Raises:
        ConfigError: no such guard, kind or setting; the message names the nearest.
        SourceError: its weights cannot be had, or are not the pinned ones.
    """
    if reference.endswith(".toml"):
        return _from_file(Path(reference).expanduser())
    name, at, where = reference.partition("@")
    factory = GUARDS.get(name)
    if not at:
        return factory()
    if not isinstance(factory, Movable):
        raise ConfigError("a guard that can run on other weights", f"{name!r}", f"name it alone: {name}")
    if not where:
        raise ConfigError("NAME@WEIGHTS or NAME@http://SERVER", repr(reference), "say where the guard runs")
    return factory.at(where)


def guard_sources(reference: str) -> tuple[str, ...]:
    """Return what a guard fetches before it can judge."""
    if reference.endswith(".toml"):
        settings = read_settings(Path(reference).expanduser())
        own = (settings["model"],) if settings.get("kind") == "text_classification" and "model" in settings else ()
        members = [*settings.get("members", ()), *(settings[k] for k in ("first", "then", "guard") if k in settings)]
        folder = Path(reference).expanduser().parent
        return (*own, *(source for m in members for source in guard_sources(beside(str(m), folder))))
    name, _, where = reference.partition("@")
    GUARDS.get(name)  # its file says it
    if where:
        return () if is_url(where) else (where,)
    return SOURCES.get(name, ())


def is_url(where: str) -> bool:
    """Return whether a guard is to run behind a server."""
    return where.startswith(("http://", "https://"))


def beside(reference: str, folder: Path) -> str:
    """Return a member's reference with a relative `.toml` path taken from the file that names it."""
    return str(folder / Path(reference).expanduser()) if reference.endswith(".toml") else reference


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings of a guard's file.

    Raises:
        ConfigError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"a TOML file of a guard at {path}", str(error)[:120], "check path and content") from error


def make_guard(settings: dict[str, Any], folder: Path = Path()) -> Guard:
    """Return the guard of settings: `kind` and what its class takes.

    Raises:
        ConfigError: no kind or an unknown one, an unknown setting, a value out of range.
    """
    given = dict(settings)
    kind = given.pop("kind", None)
    if not isinstance(kind, str):
        raise ConfigError(f"kind = one of {', '.join(GUARD_KINDS)}", repr(kind), "say what kind of guard this is")
    factory = GUARD_KINDS.get(kind)
    config_class = get_type_hints(factory)["config"]
    try:
        config = config_class.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or kind
        known = ", ".join(config_class.model_fields)
        raise ConfigError(f"{kind}: settings among {known}", f"{where}: {first['msg']}", "correct this setting") from error
    return factory(config=config, folder=folder)


def _from_file(path: Path) -> Guard:
    return make_guard(read_settings(path), path.parent)
