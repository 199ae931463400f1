"""The only file of this room that talks to the network, through the ordinary clients: pip and huggingface_hub.

A `Fetcher` is the seam: tests, and users with a mirror of their own, pass another one to `resolve`.
"""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from packaging.version import Version

from softguard.core.protocols import Progress
from softguard.errors import SourceError
from softguard.sources.checks import MODEL_FILES

_RAW_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")


class Fetcher(Protocol):
    """Brings things from elsewhere to this disk, or raises `SourceError`."""

    def wheel(self, requirement: str, folder: Path, progress: Progress | None) -> Path:
        """Download the wheel of `package==version`, without dependencies, into `folder` and return its path."""
        ...

    def snapshot(self, repository: str, revision: str, offline: bool) -> Path:
        """Return a folder with the model files and the card of a hub repository."""
        ...


class NetworkFetcher:
    """Fetches with pip (its own configuration: index, proxy, certificates) and huggingface_hub (its own cache)."""

    def wheel(self, requirement: str, folder: Path, progress: Progress | None) -> Path:
        """Download a wheel with pip. Wheels only: building a source distribution would run its code.

        Raises:
            SourceError: pip is absent or failed.
        """
        try:
            version = Version(importlib.metadata.version("pip"))
        except importlib.metadata.PackageNotFoundError as error:
            todo = "run `python -m ensurepip`, or `uv pip install pip`"
            raise SourceError(f"pip, to download {requirement}", f"none in {sys.prefix}", todo) from error
        options = ["--no-deps", "--no-cache-dir", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check"]
        bar = "raw" if progress is not None and version >= Version("24.1") else "off"
        command = [sys.executable, "-m", "pip", "download", *options, "--progress-bar", bar, "-d", str(folder)]
        lines = _run([*command, requirement], progress)
        wheels = sorted(folder.glob("*.whl"))
        if len(wheels) != 1:
            errors = [line for line in lines if "error" in line.lower()] or lines[-1:] or ["pip said nothing"]
            todo = "check the network and pip's index, then run again; nothing half-fetched is kept"
            raise SourceError(f"pip to download {requirement}", errors[0][:300], todo)
        return wheels[0]

    def snapshot(self, repository: str, revision: str, offline: bool) -> Path:
        """Download a hub repository's model files into huggingface_hub's cache, which other tools share.

        Raises:
            SourceError: no network, no such repository or revision, or a gated one.
        """
        from huggingface_hub import errors as hub
        from huggingface_hub import snapshot_download

        expected = f"hf:{repository}@{revision}"
        try:
            patterns = [*MODEL_FILES, "README.md"]
            return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns, local_files_only=offline))
        except hub.GatedRepoError as error:
            todo = f"accept its terms at https://huggingface.co/{repository}, then run `hf auth login`"
            raise SourceError(expected, "a gated repository, and no permission", todo) from error
        except hub.RevisionNotFoundError as error:
            raise SourceError(expected, "no such revision", "check the branch, tag or commit") from error
        except hub.RepositoryNotFoundError as error:
            todo = "check the name; for a private repository run `hf auth login`"
            raise SourceError(expected, "no such repository, or a private one", todo) from error
        except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled) as error:
            found = "it is not in the cache, and we are offline" if offline else "no network, and it is not in the cache"
            raise SourceError(expected, found, "connect once to fetch it, or give a local folder") from error
        except (hub.HFValidationError, ValueError) as error:
            raise SourceError(expected, str(error)[:200], "correct the reference") from error
        except Exception as error:  # the hub's errors, and those of the clients below it, share no root
            raise SourceError(expected, str(error)[:200], "check the network and run again") from error


def _run(command: list[str], progress: Progress | None) -> list[str]:
    """Run a command and return what it printed; lines of pip's raw progress go to `progress`."""
    lines: list[str] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            for line in process.stdout or ():
                step = _RAW_PROGRESS.match(line)
                if step is None:
                    lines.append(line.strip())
                elif progress is not None:
                    progress(int(step.group(1)), int(step.group(2)))
        except BaseException:
            process.kill()
            raise
    return lines
