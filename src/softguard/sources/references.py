"""The reference syntax, read once: strings in, what they name out. No disk and no network here."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from softguard.errors import SourceError

_HF = re.compile(r"hf:((?:[\w.-]+/)?[\w.-]+)(?:@([\w./-]+))?")
_PYPI = re.compile(r"pypi:([A-Za-z0-9][\w.-]*)==([\w.!+-]+)/(.+)")


@dataclass(frozen=True)
class HubReference:
    """A repository of the Hugging Face hub, at a branch, tag or commit."""

    repository: str
    revision: str


@dataclass(frozen=True)
class WheelReference:
    """A file, or a folder where `member` ends with `/`, inside one wheel."""

    package: str
    version: str
    member: str

    @property
    def requirement(self) -> str:
        """The wheel, as pip names it."""
        return f"{self.package}=={self.version}"

    @property
    def name(self) -> str:
        """The last part of the member's path."""
        return PurePosixPath(self.member).name


def parse_hub(reference: str) -> HubReference:
    """Return what an `hf:` reference names; without a revision, the branch `main`.

    Raises:
        SourceError: it is not one.
    """
    found = _HF.fullmatch(reference)
    if not found or ".." in reference:
        raise SourceError("hf:org/name@revision", repr(reference), "correct the reference")
    return HubReference(found.group(1), found.group(2) or "main")


def parse_wheel(reference: str) -> WheelReference:
    """Return what a `pypi:` reference names.

    Raises:
        SourceError: it is not one, or its member leaves the wheel.
    """
    found = _PYPI.fullmatch(reference)
    if not found:
        raise SourceError("pypi:package==version/member", repr(reference), "correct the reference")
    check_member(found.group(3).removesuffix("/"))
    return WheelReference(found.group(1), found.group(2), found.group(3))


def check_member(name: str) -> None:
    """Check that a path inside an archive stays there, on every system that we run on.

    Raises:
        SourceError: it is absolute, climbs with `..`, or holds a backslash, a colon or a NUL.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or any(c in name for c in "\\:\0"):
        raise SourceError("a member that stays inside its archive", repr(name), "do not use this package or reference")
