"""The policy of a run: the file that its config names, and the copy that a finished run keeps of it."""

import hashlib
from pathlib import Path

from softguard.core import Guard
from softguard.recipes.config import Config
from softguard.teacher import Policy, load_policy
from softguard.teacher.policy import read_policy

POLICY_FILE = "policy.toml"


def policy_of(config: Config, guard: Guard, run: Path | None = None) -> Policy | None:
    """Return the policy that a config names, a finished run's from its own copy; None where it names none.

    Raises:
        ConfigError: see `load_policy`.
    """
    if not config.teacher.policy:
        return None
    path = Path(config.teacher.policy) if run is None else run / POLICY_FILE
    return load_policy(path, config.teacher.refusal_text, getattr(guard, "category_names", None))


def policy_refusals(config: Config, run: Path) -> frozenset[str]:
    """Return the texts that count as refusals of a finished run beside its own: those of its policy's refuse actions."""
    return read_policy(run / POLICY_FILE).refusals if config.teacher.policy else frozenset()


def policy_hash(config: Config) -> dict[str, str]:
    """Return the hash of the policy file, where there is one."""
    path = config.teacher.policy
    return {"policy_sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()} if path else {}
