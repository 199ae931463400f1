"""What an attack wrapper is: a harmless-looking or forceful form around a request, in our own words."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from softguard.core import Conversation
from softguard.errors import ConfigError
from softguard.registry import Registry

PLAIN = "plain"
"""The name under which an unwrapped request is reported."""

Wrap = Callable[[str, str], Conversation]
"""(request, its id) -> what is asked. The id alone decides where there is a choice, so that every system is asked the same."""


@dataclass(frozen=True)
class Wrapper:
    """An attack by the form of the request.

    A conversation that ends with the assistant's turn is an answer that has been begun for the system (`Conversation.response`).

    Attributes:
        title: what a reader calls it.
        source: who described the attack; the text is ours.
        make: gives the wrap, from the folder of public sets where it needs one.
    """

    title: str
    source: str
    make: Callable[[Path | None], Wrap]


WRAPPERS: Registry[Wrapper] = Registry("attack wrapper", "softguard.wrappers")


def fixed(wrap: Wrap) -> Callable[[Path | None], Wrap]:
    """Return the `make` of a wrapper that needs no data."""
    return lambda data_dir: wrap


def wrappers_named(given: str) -> list[str]:
    """Return the names of wrappers that a comma-separated list means; `all` is every one. Empty for none.

    Raises:
        ConfigError: no such wrapper.
    """
    names: dict[str, None] = {}
    for word in filter(None, (w.strip() for w in given.split(","))):
        if word == PLAIN:
            raise ConfigError("a wrapper", repr(PLAIN), "leave it out: unwrapped requests are always asked")
        for name in WRAPPERS if word == "all" else [word]:
            WRAPPERS.get(name)
            names[name] = None
    return list(names)
