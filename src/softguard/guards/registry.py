"""Guards by name."""

from collections.abc import Callable

from softguard.core import Guard
from softguard.registry import Registry

GuardFactory = Callable[[], Guard]
GUARDS: Registry[GuardFactory] = Registry("guard", "softguard.guards")


def load_guard(name: str) -> Guard:
    """Return the guard of that name, ready to judge.

    Raises:
        ConfigError: no such guard.
        SourceError: its weights cannot be had, or are not the pinned ones.
    """
    return GUARDS.get(name)()
