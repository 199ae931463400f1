"""What a family of generative guards is: how it is asked, what it may answer, and how its probabilities become a verdict.

One idea: a guard that writes its verdict is read, not listened to. The text before the verdict is written for it, and the
probabilities of the words that it may say there are the score; no token is drawn. Families differ in three things only: the
prompt, the questions and the score rule, so each is one small file that registers a `Family`. Who asks, a model in this process
(`generative`) or one behind a server (`openai_server`), is no business of theirs.

To add a family, add a file with `FAMILIES.register("name")(Family(...))` and `register_model(...)` for its weights.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from softguard.core import Conversation, Verdict
from softguard.core.conversation import Message
from softguard.registry import Registry

MIN_MASS = 0.05
"""Least probability that has to lie on the words of a verdict together: below it the model is not answering the question."""

_PROBE = Conversation((Message("user", "A?"), Message("assistant", "B."), Message("user", "C?"), Message("assistant", "D.")))


@dataclass(frozen=True)
class Question:
    """One thing that the model says: `lead` is the text before the answer, which we write; `answers`, to the letter."""

    name: str
    lead: str
    answers: tuple[str, ...]


Distribution = Mapping[str, float]
"""Probability of each answer to a question; they sum to 1."""


@dataclass(frozen=True)
class Reading:
    """What a model says to one prompt: a distribution for each question, and the least `mass` that lay on its answers."""

    answers: Mapping[str, Distribution]
    mass: float


@dataclass(frozen=True)
class Score:
    """The score rule's result."""

    p_safe: float
    categories: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class NamedCategories:
    """Categories that a model writes after an unsafe verdict, comma-separated on one line.

    Attributes:
        lead: the text from the prompt's end up to them.
        names: how the model writes them, and what we call them.
        max_tokens: as many are decoded greedily.
    """

    lead: str
    names: Mapping[str, str]
    max_tokens: int

    def named_in(self, text: str) -> list[str]:
        """Return our names of the categories in a continuation's first line; what is none of them is passed over."""
        line = text.strip().partition("\n")[0]
        return [self.names[part.strip()] for part in line.split(",") if part.strip() in self.names]


@dataclass(frozen=True)
class Family:
    """A prompt format with its questions and its score rule.

    Attributes:
        name: as registered.
        source: the address of the documented format.
        licence: of the format's text, which is its authors'.
        questions: in the order in which the model answers them.
        score: from the readings of every prompt (by the keys of `render`) to p_safe.
        render: the prompts of a conversation by name, most families have one; None leaves it to the chat template that comes
            with the weights, where the format is documented nowhere else.
        bos: what the prompt begins with: a server may add it too.
        marks: strings that mean something to the format: an answer that holds them is defused.
        template: for each prompt, the options of the weights' own chat template that make it that prompt; empty where the weights
            bring none that is the format.
        parts: whether that template takes a list of `{"type": "text"}` as content and sees nothing in plain strings.
        chats: whether a server's own chat template can stand in for `render`.
        categories: which categories the model names, if it does.
    """

    name: str
    source: str
    licence: str
    questions: tuple[Question, ...]
    score: Callable[[Mapping[str, Reading]], Score]
    render: Callable[[Conversation], Mapping[str, str]] | None
    bos: str = ""
    marks: tuple[str, ...] = ()
    template: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"": {}})
    parts: bool = False
    chats: bool = True
    categories: NamedCategories | None = None

    @cached_property
    def fingerprint(self) -> str:
        """What the verdicts depend on: the format as rendered, the questions, and the rule's name."""
        rendered = sorted(self.render(_PROBE).items()) if self.render else repr(self.template)
        named = (self.categories.lead, sorted(self.categories.names.items())) if self.categories else None
        described = repr((self.name, rendered, self.questions, self.score.__qualname__, named))
        return hashlib.sha256(described.encode()).hexdigest()

    def messages(self, conversation: Conversation) -> list[dict[str, Any]]:
        """Return the turns as the weights' own chat template takes them, the system's left out: no family knows one."""
        turns = [m for m in conversation.messages if m.role != "system"]
        if not self.parts:
            return [{"role": m.role, "content": m.content} for m in turns]
        return [{"role": m.role, "content": [{"type": "text", "text": m.content}]} for m in turns]

    def verdict(self, readings: Mapping[str, Reading], min_mass: float, *, truncated: bool) -> Verdict:
        """Return the verdict of the readings, to 5 digits; ungraded where the model did not answer the question."""
        mass = min(r.mass for r in readings.values())
        if mass <= 0.0 or not mass >= min_mass:
            why = f"only {mass:.2g} of the probability is on the words of a verdict: are these {self.name} weights?"
            return Verdict(ungraded=why, truncated=truncated)
        score = self.score(readings)
        p_safe = round(min(max(score.p_safe, 0.0), 1.0), 5)
        return Verdict(p_safe, {k: round(v, 5) for k, v in score.categories.items()}, truncated=truncated)


FAMILIES: Registry[Family] = Registry("family of guards", "softguard.guard_families")


def read_answers(
    questions: Sequence[Question], ask: Callable[[tuple[str, ...]], Mapping[str, float]], prune: float = 0.0
) -> Reading:
    """Return the distribution of the answer to each question, over all answers to those before it.

    P(answer k) = sum over paths of P(path) P(answer k | path): a later question is read as the model would see it, with the
    earlier answers written out, instead of on the likeliest path alone.

    Args:
        questions: in order.
        ask: the log-probability of each answer to the next question, given the answers so far.
        prune: paths less likely than this are not asked further; what they leave is shared out among the rest.
    """
    paths: dict[tuple[str, ...], float] = {(): 1.0}
    answers: dict[str, Distribution] = {}
    least = 1.0
    for number, question in enumerate(questions, 1):
        totals, longer, mass = dict.fromkeys(question.answers, 0.0), {}, 0.0
        kept = {path: weight for path, weight in paths.items() if weight > prune}
        whole = sum(kept.values())
        for path, weight in kept.items():
            logs = ask(path)
            on_answers = _log_sum_exp([logs[a] for a in question.answers])
            mass += weight / whole * math.exp(on_answers)
            for answer in question.answers:
                share = weight / whole * (math.exp(logs[answer] - on_answers) if on_answers > -math.inf else 0.0)
                totals[answer] += share
                longer[*path, answer] = share
        least = min(least, mass)
        answers[question.name] = totals
        if number < len(questions) and not any(longer.values()):
            return Reading({q.name: dict.fromkeys(q.answers, 0.0) for q in questions} | answers, 0.0)
        paths = longer
    return Reading(answers, least)


def _log_sum_exp(values: Sequence[float]) -> float:
    top = max(values)
    return top if top == -math.inf else top + math.log(sum(math.exp(v - top) for v in values))
