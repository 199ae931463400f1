"""Guards by name."""

from collections.abc import Callable

from softguard.core import Guard
from softguard.registry import Registry

GuardFactory = Callable[[], Guard]
GUARDS: Registry[GuardFactory] = Registry("guard", "softguard.guards")


SOURCES: dict[str, tuple[str, ...]] = {}
"""What a guard fetches, by name: references as `softguard.sources` takes them."""


def guard_sources(name: str) -> tuple[str, ...]:
    """Return what a guard fetches before it can judge."""
    GUARDS.get(name)  # its file says it
    return SOURCES.get(name, ())


def load_guard(name: str) -> Guard:
    """Return the guard of that name, ready to judge.

    Raises:
        ConfigError: no such guard.
        SourceError: its weights cannot be had, or are not the pinned ones.
    """
    return GUARDS.get(name)()
