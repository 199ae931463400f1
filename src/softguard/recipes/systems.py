"""A system by the name of a run or a model."""

import json
from pathlib import Path

from softguard.core import REFUSAL_TEXT, System
from softguard.errors import ConfigError
from softguard.guards import load_guard
from softguard.models import load_model
from softguard.recipes.config import SYSTEM_PROMPT
from softguard.recipes.distill import load_run, policy_of
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
        made_by = {name: files[name] for name in sorted(files) if name.startswith(("config", "adapter/", "operating_point"))}
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
