"""`RunDir`: paths inside a run, atomic writes, and `manifest.json` with the sha256 of every file.

The manifest is rewritten after each stage: what it lists is whole. A stage that it names is done and is not done again.
"""

import hashlib
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from softguard.errors import CompatibilityError, RunError

SCHEMA_VERSION = 1
_UNLISTED = {"manifest.json"}


class RunDir:
    """One run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any]) -> "RunDir":
        """Return the run at `path` for this resolved config: a new one, or the same one to go on with.

        Raises:
            CompatibilityError: the folder holds a run of another config, or something that is no run.
        """
        run = cls(path)
        existing = path / "config.toml"
        if existing.exists():
            if tomllib.loads(existing.read_text()) != json.loads(json.dumps(config)):
                raise CompatibilityError(
                    f"the config of the run in {path}", "another one", "choose another --out, or remove that folder"
                )
            return run
        if path.exists() and any(p for p in path.iterdir() if not p.name.endswith(".partial")):
            raise CompatibilityError(f"an empty or new folder at {path}", "other files", "choose another --out")
        run.write_text("config.toml", tomli_w.dumps(dict(config)))
        return run

    @classmethod
    def open(cls, path: Path) -> "RunDir":
        """Return a finished run, its files checked against the manifest.

        Raises:
            RunError: no manifest, or a listed file that is missing or changed.
        """
        run = cls(path)
        for name, digest in run._manifest()["files"].items():
            file = path / name
            if not file.is_file() or _sha256(file) != digest:
                raise RunError(f"{name} as the manifest of {path} lists it", "another or none", "restore or rerun it")
        return run

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config.

        Raises:
            RunError: there is none.
        """
        try:
            return tomllib.loads((self.path / "config.toml").read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise RunError(f"a run in {self.path}", str(error)[:120], "name the folder that `distill` wrote") from error

    def stages(self) -> list[str]:
        """Return the names of finished stages, in order; empty for a run that has none."""
        if not (self.path / "manifest.json").exists():
            return []
        return list(self._manifest()["stages"])

    def finish_stage(self, name: str) -> None:
        """Write the manifest with this stage done and every file of the run hashed."""
        stages = [s for s in self.stages() if s != name] + [name]
        files = {
            str(p.relative_to(self.path)): _sha256(p)
            for p in sorted(self.path.rglob("*"))
            if p.is_file() and p.name not in _UNLISTED and "checkpoints" not in p.parts and ".partial" not in p.name
        }
        manifest = {"schema_version": SCHEMA_VERSION, "stages": stages, "files": files}
        self.write_text("manifest.json", json.dumps(manifest, indent=2) + "\n")

    def write_text(self, name: str, text: str) -> Path:
        """Write a file of the run atomically and return its path."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, target)
        return target

    def _manifest(self) -> dict[str, Any]:
        try:
            manifest: dict[str, Any] = json.loads((self.path / "manifest.json").read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise RunError(f"a finished run in {self.path}", str(error)[:120], "run `softguard distill` to its end") from error
        if manifest.get("schema_version") != SCHEMA_VERSION:
            raise RunError(f"schema version {SCHEMA_VERSION}", str(manifest.get("schema_version")), "update softguard")
        return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
