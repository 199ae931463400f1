"""One generic registry: a name, a factory, nothing else.

An extension is one file with its code and its `@REGISTRY.register("name")`; the room's `__init__` imports its files with
`discover`, and third parties name theirs in the entry-point group of the registry. There is no central list to edit.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, get_type_hints

from softguard.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps names to things of one kind."""

    def __init__(self, kind: str, entry_point_group: str) -> None:
        self.kind = kind
        self._group = entry_point_group
        self._items: dict[str, T] = {}
        self._entry_points_read = False

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that files its argument under `name`.

        Raises:
            ConfigError: the name is taken.
        """

        def file_under(item: T) -> T:
            if name in self._items and self._items[name] is not item:
                raise ConfigError(f"a new name for a {self.kind}", f"{name!r} twice", "choose another name")
            self._items[name] = item
            return item

        return file_under

    def get(self, name: str) -> T:
        """Return what is filed under `name`.

        Raises:
            ConfigError: nothing is; the message names the nearest.
        """
        self._read_entry_points()
        if name not in self._items:
            near = get_close_matches(name, self._items, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "choose one of these"
            raise ConfigError(f"a {self.kind} among {', '.join(sorted(self._items))}", repr(name), hint)
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        self._read_entry_points()
        return iter(sorted(self._items))

    def __contains__(self, name: object) -> bool:
        self._read_entry_points()
        return name in self._items

    def _read_entry_points(self) -> None:
        if self._entry_points_read:
            return
        self._entry_points_read = True
        for point in entry_points(group=self._group):
            self.register(point.name)(point.load())


def config_classes(registry: Registry[Any]) -> tuple[type[Any], ...]:
    """Return the classes of the configs that a registry's factories take, each once, in the order of names."""
    return tuple(dict.fromkeys(config_class(registry.get(name)) for name in registry))


def config_class(factory: Any) -> type[Any]:
    """Return the class of the config that a factory takes.

    The factory says it itself: by the annotation of its parameter `config`, or of that of its class method `create`.
    """
    makes = getattr(factory, "create", factory.__init__ if isinstance(factory, type) else factory)  # type: ignore[misc]
    found: type[Any] = get_type_hints(makes)["config"]
    return found


def discover(package: str, path: list[str]) -> None:
    """Import every module of a room, so that its decorators run. An import error is the caller's to see."""
    for module in pkgutil.iter_modules(path):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package}.{module.name}")
