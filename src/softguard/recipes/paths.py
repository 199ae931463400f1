"""A config for a process that runs elsewhere: each relative path in it made absolute where it was written.

One idea: a path means what it means to the one who wrote it. What a `.toml` file of a guard names is taken from that file's own
folder already. Hashes of a config are those of what was asked for, so that this comes after them.
"""

from pathlib import Path

from softguard.guards.registry import is_url
from softguard.recipes.config import Config
from softguard.sources.catalogue import find_entry


def with_absolute_paths(config: Config) -> Config:
    """Return the config with what it names on this disk (model, guard, server, policy, first adapter) by absolute paths."""
    teacher, adapter = config.teacher, config.adapter
    name, at, where = teacher.guard.partition("@")
    guard = f"{name}@{_model(where)}" if at and not is_url(where) else _settings(teacher.guard)
    on_disk = {"guard": guard, "server": _settings(teacher.server), "policy": _file(teacher.policy)}
    begun = getattr(adapter, "initial_adapter", "")
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"name": _model(config.model.name)}),
            "teacher": teacher.model_copy(update=on_disk),
            "adapter": adapter.model_copy(update={"initial_adapter": _file(begun)}) if begun else adapter,
        }
    )


def _file(path: str) -> str:
    return str(Path(path).absolute()) if path else path


def _settings(reference: str) -> str:
    return str(Path(reference).expanduser().absolute()) if reference.endswith(".toml") else reference


def _model(reference: str) -> str:
    """Return a folder's or file's absolute path; any other reference as it is."""
    path = Path(reference).expanduser()
    if not reference or reference.startswith(("hf:", "pypi:")) or find_entry(reference) is not None or not path.exists():
        return reference
    return str(path.absolute())
