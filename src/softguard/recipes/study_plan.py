"""What a study runs: a TOML file of grids becomes cells, each one validated config, before any work is spent.

    base = "demo.toml"                               # a config, beside this file; the defaults where absent
    [settings]                                       # over it, in every cell
    "training.steps" = 100
    [[grid]]                                         # every combination is a cell; several grids add up
    "objective.kind" = ["tv_disp", "decision_split"]
    "training.learning_rate" = [0.005, 0.015]

A cell that names another kind of adapter or objective starts from that kind's own defaults, not from the base's settings.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from softguard.errors import ConfigError
from softguard.recipes.config import BY_KIND, Config, assign, read_toml, resolved, validate_config

MOST_CELLS = 2000
"""More than this is a slip of the pen rather than a study."""


class StudyFile(BaseModel):
    """A study as it is written."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    base: str = Field("", description="config file that every cell starts from, relative to this file")
    settings: dict[str, Any] = Field(default_factory=dict, description="a.b = value over the base, in every cell")
    grid: list[dict[str, list[Any]]] = Field(min_length=1, description="tables of a.b = [values]; all combinations of each")


@dataclass(frozen=True)
class Cell:
    """One run of a study. `settings`: what the grid chose for it, by key."""

    settings: Mapping[str, Any]
    config: Config

    @property
    def config_sha256(self) -> str:
        """Hash of the config as it was asked for; what `auto` means on a machine is the run's matter."""
        return hashlib.sha256(json.dumps(resolved(self.config), sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """The first twelve digits of the hash: its folder."""
        return self.config_sha256[:12]


def load_study(path: Path) -> list[Cell]:
    """Return the cells of a study, in the order of its grids, each config once.

    Raises:
        ConfigError: unreadable file, unknown key, value out of range, an empty list, or more than `MOST_CELLS` cells.
        CompatibilityError: a cell whose settings do not go together (`check_together`).
    """
    raw = read_toml(path)
    try:
        study = StudyFile.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        todo = "write `base`, `[settings]` and `[[grid]]` tables of a.b = [values]"
        raise ConfigError(f"a valid {where} in {path}", first["msg"], todo) from error
    base = read_toml(path.parent / study.base) if study.base else {}
    size = sum(_size(grid, path) for grid in study.grid)
    if size > MOST_CELLS:
        raise ConfigError(f"at most {MOST_CELLS} cells", f"{size} in {path}", "shorten a list")
    cells: dict[str, Cell] = {}
    for grid in study.grid:
        for values in itertools.product(*grid.values()):
            settings = dict(zip(grid, values, strict=True))
            cell = Cell(settings, _config(base, {**study.settings, **settings}))
            cells.setdefault(cell.name, cell)
    return list(cells.values())


def _size(grid: Mapping[str, list[Any]], path: Path) -> int:
    size = 1
    for key, values in grid.items():
        if not values:
            raise ConfigError(f"values for {key!r}", f"an empty list in {path}", "give at least one")
        size *= len(values)
    return size


def _config(base: Mapping[str, Any], settings: Mapping[str, Any]) -> Config:
    raw: dict[str, Any] = json.loads(json.dumps(base))
    for room in BY_KIND:
        kind = settings.get(f"{room}.kind")
        there = raw.get(room, {}).get("kind", Config.model_fields[room].default.kind)
        if kind is not None and kind != there:
            raw[room] = {"kind": kind}
    for key, value in settings.items():
        assign(raw, key, value)
    return validate_config(raw)
