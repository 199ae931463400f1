"""Every error that softguard raises: one tree, each also a standard exception.

A message has three parts: what was expected, what was found, what to do. Nothing else lives here, and nothing is imported.
"""


class SoftguardError(Exception):
    """The root: catch this to catch all of ours."""

    def __init__(self, expected: str, found: str, todo: str) -> None:
        super().__init__(f"expected {expected}; found {found}; {todo}")
        self._parts = (expected, found, todo)

    def __reduce__(self) -> tuple[type["SoftguardError"], tuple[str, str, str]]:
        """Return how to make it again, in another process: by its parts, not by the message that an exception passes on."""
        return type(self), self._parts


class ConfigError(SoftguardError, ValueError):
    """A setting, name or option that does not make sense."""


class DataError(SoftguardError, ValueError):
    """A file of prompts, pairs or records whose content is not what it has to be."""


class MissingDataError(DataError):
    """A file of prompts that is nowhere to be had: in no folder, and not to be fetched."""


class SourceError(SoftguardError, OSError):
    """A model, guard or data source that cannot be fetched, or whose content is not the pinned one."""


class CompatibilityError(SoftguardError, ValueError):
    """Two things that do not belong together: an adapter and a model, a cache and a configuration."""


class TrainingError(SoftguardError, ArithmeticError):
    """Training that went wrong: a loss or gradient that is not finite."""


class RunError(SoftguardError, OSError):
    """A run directory that is incomplete, changed or not one of ours."""


class GuardError(SoftguardError, RuntimeError):
    """A guard that could not judge enough of what it was given."""


class RuntimeProgramError(SoftguardError, RuntimeError):
    """A runtime (llama-server and its like) that is absent, does not start, or does not answer."""


class ExportError(SoftguardError, RuntimeError):
    """An export that did not come out as the student is: it is not kept."""
