"""The run directory: what a job leaves behind, whole and checked."""

from softguard.runs.run_dir import RunDir

__all__ = ["RunDir"]
