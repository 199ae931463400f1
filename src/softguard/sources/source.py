"""What a resolved reference is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["gguf", "folder", "program"]


@dataclass(frozen=True)
class Source:
    """A model, or a program that runs one, on this disk: every file is there, and the hash is of what lies there now.

    `sha256` is the file's, or for a folder that of its list of file hashes (see `checks.folder_sha256`). `licence` and
    `chat_template` (does the model bring one?) are None where nobody has said: unknown is not no.
    """

    reference: str
    path: Path
    sha256: str
    licence: str | None
    kind: Kind
    name: str
    chat_template: bool | None = None
