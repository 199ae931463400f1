"""Where the file of a public set comes from when no folder has it: the Hugging Face hub, or a commit on GitHub.

Must not import anything that reads prompts.
"""

import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Literal, Protocol

from softguard.core.files import write_atomically
from softguard.sources.cache import cache_dir, is_offline

GITHUB = "https://raw.githubusercontent.com"
TIMEOUT_SECONDS = 60


class RemoteFile(Protocol):
    """A file that can be had over the network."""

    def fetch(self) -> Path:
        """Return its path in a cache, fetched where it is not there yet.

        Raises:
            OSError: it cannot be had, or the network is off limits; the message says which.
        """
        ...

    @property
    def address(self) -> str:
        """Where it is, for messages."""
        ...


@dataclass(frozen=True)
class HubFile:
    """A file on the Hugging Face hub; `revision` is a commit where we saw which one holds it."""

    repository: str
    name: str
    revision: str = "main"
    repo_type: Literal["dataset", "space"] = "dataset"

    @property
    def address(self) -> str:
        """Name and repository."""
        return f"{self.name} of {self.repository}"

    def fetch(self) -> Path:
        """Return its path in the hub's own cache."""
        from huggingface_hub import errors, hf_hub_download

        where = (self.repository, self.name)
        offline = is_offline(None)
        try:
            return Path(hf_hub_download(*where, repo_type=self.repo_type, revision=self.revision, local_files_only=offline))
        except errors.EntryNotFoundError as error:
            raise OSError(str(error)) from error


@dataclass(frozen=True)
class GitHubFile:
    """A file on GitHub as it is at a commit, so that it can never change."""

    repository: str
    commit: str
    name: str

    @property
    def address(self) -> str:
        """The permanent address."""
        return f"{GITHUB}/{self.repository}/{self.commit}/{self.name}"

    def fetch(self) -> Path:
        """Return its path in our cache, where it lies under repository and commit."""
        path = cache_dir() / "public" / self.repository / self.commit / self.name
        if not path.is_file():
            if is_offline(None):
                raise OSError("SOFTGUARD_OFFLINE is set and it was not fetched before")
            try:
                with urllib.request.urlopen(self.address, timeout=TIMEOUT_SECONDS) as response:
                    content: bytes = response.read()
            except HTTPException as error:  # cut short, among others
                raise OSError(f"{type(error).__name__}: {error}") from error
            write_atomically(path, lambda partial: partial.write_bytes(content))
        return path
