"""What an attack wrapper is: a harmless-looking or forceful form around a request, in our own words."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from softguard.core import Conversation
from softguard.errors import ConfigError, MissingDataError
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


def wrappers_at_hand(given: str, data_dir: Path | None) -> tuple[dict[str, Wrap], list[str]]:
    """Return the wraps that a list means, by name, and the names of those of `all` whose data is nowhere to be had.

    Raises:
        ConfigError: see `wrappers_named`.
        DataError: a file that is not what it has to be.
        MissingDataError: the data of a wrapper that is named itself is nowhere to be had.
    """
    by_name = {word.strip() for word in given.split(",")}
    wraps: dict[str, Wrap] = {}
    lacking: list[str] = []
    for name in wrappers_named(given):
        try:
            wraps[name] = WRAPPERS.get(name).make(data_dir)
        except MissingDataError:
            if name in by_name:
                raise
            lacking.append(name)
    return wraps, lacking
