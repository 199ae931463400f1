"""`RunDir`: paths inside a run, atomic writes, and `manifest.json` with the sha256 of every file that is the run's own.

The manifest is rewritten after each stage: what it lists is whole. A stage that it names is done and is not done again.
What users and other tools put into the folder is not listed, and theirs to change.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import tomli_w

from softguard.core.files import write_atomically
from softguard.errors import CompatibilityError, RunError

SCHEMA_VERSION = 1
_MANIFEST = "manifest.json"
OWN_FILES = (
    "config.toml",
    "provenance.json",
    "operating_point.json",
    "metrics.jsonl",
    "report.html",
    "report.md",
    "adapter/adapter_model.safetensors",
    "adapter/adapter_config.json",
    "adapter/softguard_adapter.json",
    "evaluations/*/*.jsonl",
    "evaluations/*/summary.json",
)
"""The files of a run that its manifest lists."""


class RunDir:
    """One run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def check(cls, path: Path, config: Mapping[str, Any]) -> "RunDir":
        """Return the run at `path`, checked to be free for this resolved config or bound to it; nothing is written.

        Raises:
            CompatibilityError: the folder holds a run of another config, or something that is no run.
        """
        run = cls(path)
        if (path / "config.toml").exists():
            other = _differences(json.loads(json.dumps(config)), run.config)
            if other:
                raise CompatibilityError(
                    f"the config of the run in {path}", f"another: {other}", "choose another --out, or remove that folder"
                )
        elif path.exists() and not path.is_dir():
            raise CompatibilityError(f"a folder at {path}", "a file", "choose another --out")
        elif path.exists() and any(p for p in path.iterdir() if not p.name.endswith(".partial")):
            raise CompatibilityError(f"an empty or new folder at {path}", "other files", "choose another --out")
        return run

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any]) -> "RunDir":
        """Return the run at `path` for this resolved config: a new one, or the same one to go on with.

        Raises:
            CompatibilityError: see `check`.
        """
        run = cls.check(path, config)
        if not (path / "config.toml").exists():
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
            if _is_own(name) and (not file.is_file() or _sha256(file) != digest):
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
        except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
            raise RunError(f"a run in {self.path}", str(error)[:120], "name the folder that `distill` wrote") from error

    def stages(self) -> list[str]:
        """Return the names of finished stages, in order; empty for a run that has none."""
        if not (self.path / _MANIFEST).exists():
            return []
        return list(self._manifest()["stages"])

    def finish_stage(self, name: str) -> None:
        """Write the manifest with this stage done and every file of `OWN_FILES` hashed."""
        stages = [s for s in self.stages() if s != name] + [name]
        files = {
            p.relative_to(self.path).as_posix(): _sha256(p)
            for p in sorted(q for own in OWN_FILES for q in self.path.glob(own))
            if p.is_file()
        }
        self._write_manifest({"schema_version": SCHEMA_VERSION, "stages": stages, "files": files})

    def write_text(self, name: str, text: str) -> Path:
        """Write a file of the run atomically and return its path.

        A file of other content leaves the manifest first: a kill before the stage's end must not make the run look damaged.
        """
        target = self.path / name
        if name != _MANIFEST and (self.path / _MANIFEST).exists():
            manifest = self._manifest()
            listed = manifest["files"].pop(name, None)
            if listed is not None and listed != hashlib.sha256(text.encode()).hexdigest():
                self._write_manifest(manifest)
        write_atomically(target, text)
        return target

    def _write_manifest(self, manifest: Mapping[str, Any]) -> None:
        self.write_text(_MANIFEST, json.dumps(manifest, indent=2) + "\n")

    def _manifest(self) -> dict[str, Any]:
        try:
            manifest: dict[str, Any] = json.loads((self.path / _MANIFEST).read_text())
        except (OSError, ValueError) as error:
            raise RunError(f"a finished run in {self.path}", str(error)[:120], "run `softguard distill` to its end") from error
        if manifest.get("schema_version") != SCHEMA_VERSION:
            raise RunError(f"schema version {SCHEMA_VERSION}", str(manifest.get("schema_version")), "update softguard")
        return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_own(name: str) -> bool:
    return any(fnmatch(name, own) for own in OWN_FILES)


def _differences(wanted: Mapping[str, Any], there: Mapping[str, Any], most: int = 5) -> str:
    """Return the keys in which two configs differ with both values, the first `most` of them; empty where they agree."""
    here, other = _flat(wanted), _flat(there)
    keys = [k for k in sorted({*here, *other}) if here.get(k) != other.get(k)]
    shown = [f"{k} = {_short(here.get(k))}, there {_short(other.get(k))}" for k in keys[:most]]
    return "; ".join(shown) + (f"; and {len(keys) - most} more" if len(keys) > most else "")


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in node.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out


def _short(value: Any) -> str:
    return "absent" if value is None else repr(value)[:60]
