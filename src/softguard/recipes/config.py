"""The one resolved configuration of a run: TOML in, `--set a.b=c` over it, unknown keys are errors with the nearest match."""

import json
import tomllib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from softguard.adapters import SoftPromptConfig
from softguard.core import REFUSAL_TEXT
from softguard.errors import ConfigError
from softguard.objectives.decision_split import DecisionSplitConfig
from softguard.objectives.dense import DenseConfig
from softguard.objectives.sequence import SequenceConfig
from softguard.training import TrainingConfig

ObjectiveConfig = Annotated[SequenceConfig | DenseConfig | DecisionSplitConfig, Field(discriminator="kind")]

SYSTEM_PROMPT = (
    "You are a helpful and careful assistant. Answer harmless requests fully. If a request would help someone to cause harm, "
    f"do not answer it and reply only: {REFUSAL_TEXT}"
)


class ModelConfig(BaseModel):
    """The base model."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field("smollm2-135m", description="short name, hf:..., pypi:..., folder or .gguf")
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="of the frozen weights")
    attention: Literal["eager", "sdpa"] = Field("eager", description="attention kernel; measure on your machine")
    threads: int = Field(0, ge=0, description="PyTorch threads; 0 leaves PyTorch's own choice")


class TeacherConfig(BaseModel):
    """The guarded system."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    guard: str = Field("mini", description="the guard that judges the drafts")
    max_new_tokens: int = Field(48, gt=0, description="length of a draft; the guard judges the same truncated text")
    temperature: float = Field(1.0, ge=0, description="1 is the method's p(y|x); greedy drafts sharpen the student")
    seed: int = Field(0, ge=0, description="of the drafts")
    refusal_text: str = Field(REFUSAL_TEXT, min_length=2, description="y_r")


class DataConfig(BaseModel):
    """Training and validation prompts."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sets: tuple[str, ...] = Field(("softguard",), description="prompt sets by name; validation rows come from ours alone")
    max_per_set: int = Field(0, ge=0, description="rows of each label taken from each set; 0 is all")
    seed: int = Field(0, ge=0, description="of the subsample")


class EvaluationConfig(BaseModel):
    """What is measured at the end of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    prompts_per_label: int = Field(60, gt=0, description="test prompts of each label, at most")
    max_new_tokens: int = Field(24, gt=0, description="of a greedy answer; a refusal shows within them")
    over_refusal_target: float = Field(
        0.03, ge=0, lt=1, description="share of benign validation prompts refused at the calibrated operating point"
    )
    system_prompt: str = Field(SYSTEM_PROMPT, description="of the hard system prompt that is compared")


class Config(BaseModel):
    """Everything that makes a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: ModelConfig = ModelConfig()
    teacher: TeacherConfig = TeacherConfig()
    data: DataConfig = DataConfig()
    adapter: SoftPromptConfig = SoftPromptConfig()
    objective: ObjectiveConfig = DecisionSplitConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


def load_config(path: Path | None, assignments: Sequence[str] = ()) -> Config:
    """Return the config of a TOML file with `a.b=value` assignments over it (values as TOML; bare text is a string).

    Raises:
        ConfigError: unreadable file, unknown key (with the nearest), value out of range.
    """
    raw: dict[str, Any] = {}
    if path is not None:
        try:
            raw = tomllib.loads(path.read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ConfigError("a TOML file", f"{path}: {error}", "correct the file") from error
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator:
            raise ConfigError("an assignment a.b=value", repr(assignment), "write --set training.steps=100")
        *parents, leaf = key.strip().split(".")
        node = raw
        for parent in parents:
            node = node.setdefault(parent, {})
        try:
            node[leaf] = tomllib.loads(f"x = {text}")["x"]
        except tomllib.TOMLDecodeError:
            node[leaf] = text
    return validate_config(raw)


def validate_config(raw: dict[str, Any]) -> Config:
    """Return the validated config of nested dicts.

    Raises:
        ConfigError: see `load_config`.
    """
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        if first["type"] == "extra_forbidden":
            known = sorted(_keys(Config().model_dump()))
            leaf = where.rsplit(".", 1)[-1]
            near = get_close_matches(leaf, [k.rsplit(".", 1)[-1] for k in known], n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)[:300]}"
            raise ConfigError("a known setting", repr(where), hint) from error
        raise ConfigError(f"a valid {where}", repr(first.get("input"))[:80], first["msg"]) from error


def resolved(config: Config) -> dict[str, Any]:
    """Return the config as plain TOML-able values."""
    plain: dict[str, Any] = json.loads(config.model_dump_json())
    return plain


def _keys(node: dict[str, Any], prefix: str = "") -> list[str]:
    out = []
    for key, value in node.items():
        out += _keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return out
