"""A system by the name of a run or a model; all systems of a run, on one model in memory."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from softguard.core import REFUSAL_TEXT, Guard, StreamingSystem, System
from softguard.errors import ConfigError
from softguard.guards import load_guard
from softguard.models import load_model
from softguard.recipes.config import SYSTEM_PROMPT
from softguard.recipes.distill import load_run
from softguard.recipes.policies import policy_of
from softguard.recipes.student import ModelSystem
from softguard.teacher import GuardedSystem


def check_named(run_or_model: str, system: str, guard: str | None) -> None:
    """Check what can be checked before anything is fetched or loaded.

    Raises:
        ConfigError: a student of a bare model, or a guarded model without a guard.
    """
    if (Path(run_or_model) / "config.toml").exists():
        return
    if system == "student":
        raise ConfigError("a run directory for the student", repr(run_or_model), "name the folder that `distill` wrote")
    if system == "guarded" and guard is None:
        raise ConfigError("--guard with a model", "none", "name one of `softguard guard list`")


def named_system(run_or_model: str, system: str, guard: str | None) -> tuple[System, str]:
    """Return the system and what describes it for a job's binding hash.

    Raises:
        ConfigError: see `check_named`.
    """
    check_named(run_or_model, system, guard)
    if (Path(run_or_model) / "config.toml").exists():
        loaded = load_run(Path(run_or_model))
        lm, config, own = loaded.lm, loaded.config, Path(run_or_model)
        files = json.loads((loaded.run.path / "manifest.json").read_text())["files"]
        made_by = {
            name: files[name] for name in sorted(files) if name.startswith(("config", "adapter/", "operating_point", "policy"))
        }
        described = f"{json.dumps(made_by)}|{system}"
        refusal, prompt, guard = config.teacher.refusal_text, config.evaluation.system_prompt, guard or config.teacher.guard
        if system == "student":
            return loaded.student(), described
    else:
        lm, config, own = load_model(run_or_model), None, None
        refusal, prompt, described = REFUSAL_TEXT, SYSTEM_PROMPT, f"{lm.fingerprint}|{system}"
    if system == "guarded":
        assert guard is not None
        judge = load_guard(guard)
        policy = policy_of(config, judge, own) if config is not None else None
        return GuardedSystem(lm, judge, refusal, policy), f"{described}|{judge.fingerprint}"
    system_prompt = prompt if system == "system_prompt" else None
    return ModelSystem(system, lm, system_prompt=system_prompt, refusal_text=refusal), described


@dataclass(frozen=True)
class RunSystems:
    """Every system of a run by name: base, guarded where there is a guard, student, system_prompt. They share one model."""

    systems: Mapping[str, StreamingSystem]
    guard: Guard | None
    threshold: float
    fingerprint: str


def run_systems(run: Path, guard: str | None) -> RunSystems:
    """Return the systems of a finished run.

    Args:
        run: its folder.
        guard: of the guarded system; None leaves that one out.

    Raises:
        RunError: no finished run there.
        CompatibilityError: its adapter does not fit its base model.
        ConfigError: the run's policy names categories that the guard does not tell.
    """
    loaded = load_run(run)
    lm, config = loaded.lm, loaded.config
    refusal = config.teacher.refusal_text
    judge = None if guard is None else load_guard(guard)
    systems: dict[str, StreamingSystem] = {"base": ModelSystem("base", lm, refusal_text=refusal)}
    if judge is not None:
        systems["guarded"] = GuardedSystem(lm, judge, refusal, policy_of(config, judge, run))
    systems["student"] = loaded.student()
    systems["system_prompt"] = ModelSystem(
        "system_prompt", lm, system_prompt=config.evaluation.system_prompt, refusal_text=refusal
    )
    return RunSystems(systems, judge, loaded.threshold, lm.fingerprint)
