"""Policies: more than two outcomes. A TOML file says what becomes of an answer that the guard puts into a category.

    default = { action = "refuse" }                       # unsafe, in a category that is not named below; this is its default
    [categories]
    "Self-Harm" = { action = "refuse", text = "Please talk to someone you trust, or call a help line." }
    "Specialized Advice" = { action = "answer_unknown" }  # says "I do not know the answer."
    "Defamation" = { action = "rewrite", callable = "my_package.my_module:soften" }
    "Elections" = { action = "keep" }

p(r|x,y) = sum_c p(c|x,y) 1[r = a_c(y)]. Guards give p_safe and scores that need not add up: safe has p_safe, and 1 - p_safe is
shared among the categories in proportion to their scores; without any score all of it is the default's. Actions that come to the
same text are one outcome, a rewriting that changes nothing is `keep`.

References:
    Alfarra et al. 2026, arXiv 2606.09388, appendix A.3.
"""

import hashlib
import importlib
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from softguard.core import Conversation, Verdict
from softguard.errors import ConfigError, DataError

UNKNOWN_TEXT = "I do not know the answer."
"""What `answer_unknown` says (paper, appendix A.3)."""
Rewriter = Callable[[Conversation, str], str]
"""Gives another text for (conversation, answer)."""


class ActionConfig(BaseModel):
    """What is done with an answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    action: Literal["keep", "refuse", "answer_unknown", "rewrite"]
    text: str | None = Field(None, min_length=2, description="of refuse, instead of the run's; of answer_unknown")
    callable: str = Field("", description="MODULE:FUNCTION of rewrite; it is given the conversation and the answer")

    @model_validator(mode="after")
    def _goes_together(self) -> "ActionConfig":
        if (self.action == "rewrite") != bool(self.callable):
            raise ValueError(f"action {self.action!r} with callable {self.callable!r}: rewrite has one, the others none")
        if self.text is not None and (self.action in ("keep", "rewrite") or not self.text.strip()):
            raise ValueError(f"action {self.action!r} with text {self.text!r}: refuse and answer_unknown have one, not blank")
        return self


class PolicyConfig(BaseModel):
    """The file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    default: ActionConfig = ActionConfig(action="refuse")
    categories: dict[str, ActionConfig] = Field(min_length=1)

    @property
    def refusals(self) -> frozenset[str]:
        """The texts of its refuse actions that have one of their own."""
        return frozenset(a.text for a in (self.default, *self.categories.values()) if a.action == "refuse" and a.text)


@dataclass(frozen=True)
class Decided:
    """With probability `kept` the answer stands; else one of the texts, with theirs. All add up to 1."""

    kept: float
    instead: Mapping[str, float]


@dataclass(frozen=True)
class Policy:
    """What is done with answers, by category.

    Attributes:
        config: the file.
        refusal_text: y_r, of a refusal without a text of its own.
    """

    config: PolicyConfig
    refusal_text: str
    _rewriters: Mapping[str, Rewriter] = field(default_factory=dict, repr=False)

    @classmethod
    def create(cls, config: PolicyConfig, refusal_text: str) -> "Policy":
        """Return the policy with what it calls.

        Raises:
            ConfigError: a callable that cannot be imported.
        """
        actions = (config.default, *config.categories.values())
        return cls(config, refusal_text, {a.callable: _imported(a.callable) for a in actions if a.callable})

    @property
    def fingerprint(self) -> str:
        """The hash of what it says, but for what is called."""
        return hashlib.sha256(repr((self.config.model_dump_json(), self.refusal_text)).encode()).hexdigest()

    @property
    def fixed_texts(self) -> frozenset[str]:
        """All that it says instead of answers, rewritings apart."""
        actions = (self.config.default, *self.config.categories.values())
        return frozenset(self._fixed(a) for a in actions if a.action in ("refuse", "answer_unknown"))

    def decide(self, conversation: Conversation, response: str, verdict: Verdict) -> Decided:
        """Return what the guarded system says of a graded response, and how probably. The first outcome is the default's.

        Raises:
            DataError: a rewriting that is no text.
        """
        assert verdict.p_safe is not None
        unsafe, total = 1 - verdict.p_safe, sum(verdict.categories.values())
        weights = [(self.config.default, 0.0 if total > 0 else unsafe)]
        if total > 0:
            named = self.config.categories
            weights += [(named.get(c, self.config.default), unsafe * p / total) for c, p in verdict.categories.items()]
        kept = verdict.p_safe
        instead: dict[str, float] = {}
        for action, weight in weights:
            text = self._text(action, conversation, response) if weight > 0 or action is self.config.default else None
            if text is None or text.strip() == response.strip():
                kept += weight
            else:
                instead[text] = instead.get(text, 0.0) + weight
        if not instead:  # every row has an outcome beside y, if only of weight 0
            instead[self.refusal_text] = 0.0
        return Decided(min(kept, 1.0), instead)

    def _text(self, action: ActionConfig, conversation: Conversation, response: str) -> str | None:
        """Return what an action says, None to keep the answer."""
        if action.action == "rewrite":
            text = self._rewriters[action.callable](conversation, response)
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"a text from {action.callable}", repr(text)[:60], "return the answer itself to keep it")
            return text
        if action.action == "keep":
            return None
        return self._fixed(action)

    def _fixed(self, action: ActionConfig) -> str:
        """Return what refuse or answer_unknown says."""
        return action.text or (self.refusal_text if action.action == "refuse" else UNKNOWN_TEXT)


def load_policy(path: Path, refusal_text: str, known: Collection[str] | None) -> Policy:
    """Return the policy of a file.

    Args:
        path: the TOML file.
        refusal_text: y_r, of refusals without a text of their own.
        known: the guard's categories; None where the guard does not tell them.

    Raises:
        ConfigError: no such file, no TOML, an unknown key, action or category, a text or callable that is missing or too many.
    """
    config = read_policy(path)
    if known is None:
        raise ConfigError("a guard that tells its categories", "one that does not", "take another guard, or no policy")
    for category in config.categories:
        if category not in known:
            near = get_close_matches(category, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "name one of these"
            raise ConfigError(f"a category among {', '.join(sorted(known)) or 'none'}", f"{category!r} in {path}", hint)
    return Policy.create(config, refusal_text)


def read_policy(path: Path) -> PolicyConfig:
    """Return what a file says; its categories and callables are not looked at.

    Raises:
        ConfigError: no such file, no TOML, an unknown key or action, a text or callable that is missing or too many.
    """
    try:
        return PolicyConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError("a policy: default and categories, each an action", f"{path}: {where}", first["msg"]) from error
    except (OSError, ValueError) as error:
        raise ConfigError("a policy file, in TOML", f"{path}: {error}", "correct the file") from error


def _imported(reference: str) -> Rewriter:
    module, separator, name = reference.partition(":")
    try:
        found = getattr(importlib.import_module(module), name) if separator and name else None
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError("a callable MODULE:FUNCTION", f"{reference!r} ({error})", "install it, or correct its name") from error
    if not callable(found):
        raise ConfigError("a callable MODULE:FUNCTION", repr(reference), "name a function")
    rewriter: Rewriter = found
    return rewriter
