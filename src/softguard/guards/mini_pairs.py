"""Training pairs for `mini`: prompts of known label, crossed with answers of known kind.

One idea: the guard may not learn "alarming words" nor "polite tone", so every kind of prompt meets every kind of answer.
Unsafe is a harmful prompt with an answer that serves it, also after a refusal, in part or in a wrapping; all else is safe.
Answers are sampled from the base model by the caller (`answer_requests` says how), refusals are our own. Knows no files: rows
come in as objects.
"""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol
from zlib import crc32

from softguard.guards._refusal_texts import OPENINGS, REDIRECTIONS, REFUSALS, TURNS
from softguard.guards.measuring import LabelledPair
from softguard.guards.mini_hard_pairs import PARTLY, wrapped

Style = Literal["plain", "short", "discourage"]
HARD_KINDS = frozenset({"partly_served", "partly_safe", "wrapped"})
"""What comes after the colon in a pair's kind: our test pairs without them are those of figures before 2026-11-26."""


class TrainingPrompt(Protocol):
    """What a prompt has to bring: `softguard.data.PromptRow` does."""

    @property
    def prompt(self) -> str:
        """The text."""
        ...

    @property
    def label(self) -> str:
        """`harmful`, `look_alike` or `benign`."""
        ...

    @property
    def source(self) -> str:
        """The set it is from."""
        ...

    @property
    def topic(self) -> str:
        """What it is about: all rows of a topic share a split."""
        ...

    @property
    def split(self) -> str:
        """`train`, `validation` or `test`."""
        ...


@dataclass(frozen=True)
class AnswerRequest:
    """An answer to sample: at temperature 1, with this system turn, going on from `opening`."""

    prompt: str
    style: Style
    system: str | None
    opening: str


@dataclass(frozen=True)
class SampledAnswer:
    """An answer of the base model; `response` includes the opening. `discourage` was asked to argue against the act."""

    prompt: str
    style: Style
    response: str


_SHORT = (
    "Answer in one or two sentences.",
    "Answer briefly and directly, in a conversational tone.",
    "Reply with a short, blunt, informal answer.",
)
_DISCOURAGE = (
    "You are a responsible assistant. Do not help with this. Say why it is wrong or risky, "
    "and suggest a lawful, kind alternative.",
    "Explain briefly why this is a bad idea and what to do instead.",
)
_AGAINST = (
    *("No, ", "It is illegal", "It is not", "I would not recommend", "That is wrong", "You should not", "It's important to"),
    *("This is not", "I'm sorry, but", "There is no", "Instead of", "I don't think", "I understand that", "It would be"),
    *("You should talk to", "Everyone deserves", "I think it is important", "No one should", "The law", "We should"),
)
_DECLINES = re.compile(
    r"\b(?:sorry|cannot|can't|can not|won't|unable|illegal|unethical|never|wrong|harmful|dangerous|refrain|avoid|instead|crime"
    r"|not (?:appropriate|recommended|acceptable|a good idea|advisable)|against the law|as an ai|consequences|seek help"
    r"|important to)\b",
    re.IGNORECASE,
)
"""Words of a moralising answer: to a harmful prompt such an answer is neither plainly unsafe nor plainly safe."""


def answer_requests(prompts: Iterable[TrainingPrompt], seed: int = 0) -> list[AnswerRequest]:
    """Return the answers to sample for `mini_pairs`: one a prompt, and for every second harmful one a dissuasion."""
    requests = []
    for row in prompts:
        rng = _rng(seed, row.prompt)
        style: Style = rng.choice(("plain", "short") if row.label == "harmful" else ("plain", "plain", "short"))
        system = rng.choice(_SHORT) if style == "short" else None
        requests.append(AnswerRequest(row.prompt, style, system, ""))
        if row.label == "harmful" and rng.random() < 0.5:
            requests.append(AnswerRequest(row.prompt, "discourage", rng.choice(_DISCOURAGE), rng.choice(_AGAINST)))
    return requests


def build_pairs(prompts: Sequence[TrainingPrompt], answers: Sequence[SampledAnswer], seed: int = 0) -> list[LabelledPair]:
    """Return labelled pairs, in the order of the prompts; the same seed gives the same pairs.

    A harmful prompt whose sampled answer moralises is left out: the label would be a guess.
    """
    by_prompt: dict[str, list[SampledAnswer]] = {}
    for answer in answers:
        by_prompt.setdefault(answer.prompt, []).append(answer)
    harmless = [a.response for row in prompts if row.label != "harmful" for a in by_prompt.get(row.prompt, [])]
    pairs: list[LabelledPair] = []
    for row in prompts:
        rng = _rng(seed, row.prompt)
        own = by_prompt.get(row.prompt, [])
        if row.label == "harmful":
            pairs += _harmful_pairs(row, own, harmless, rng)
        else:
            pairs += _harmless_pairs(row, own, rng)
        pairs += _hard_pairs(row, own, _rng(seed, f"hard:{row.prompt}"))  # draws of its own: the pairs above stay what they were
    return pairs


def _harmful_pairs(row: TrainingPrompt, own: list[SampledAnswer], harmless: list[str], rng: random.Random) -> list[LabelledPair]:
    served = _served(own)
    against = [a.response for a in own if a.style == "discourage" and _DECLINES.search(a.response)]
    refusal = rng.choice(REFUSALS)
    made = [_pair(row, "refusal", refusal, False, True)] if rng.random() < 0.6 else []
    if rng.random() < 0.6:
        made.append(_pair(row, "redirection", rng.choice(REDIRECTIONS), False, True))
    made += [_pair(row, "dissuasion", text, False, True) for text in against]
    if harmless and rng.random() < 0.4:
        made.append(_pair(row, "mismatch", rng.choice(harmless), False, None))
    for text in served:
        made.append(_pair(row, "served", text, True, False))
        if rng.random() < 0.5:
            made.append(_pair(row, "opening", rng.choice(OPENINGS) + rng.choice((text, restate(row.prompt))), True, False))
        if rng.random() < 0.3:
            made.append(_pair(row, "refusal_then_served", f"{refusal} {rng.choice(TURNS)}{text}", True, None))
    if not served:
        made.append(_pair(row, "opening", rng.choice(OPENINGS) + restate(row.prompt), True, False))
    return made


def _harmless_pairs(row: TrainingPrompt, own: list[SampledAnswer], rng: random.Random) -> list[LabelledPair]:
    made = [_pair(row, "answer", a.response, False, False) for a in own if a.response]
    if not own or rng.random() < 0.5:
        text = own[0].response if own and rng.random() < 0.5 else restate(row.prompt)
        made.append(_pair(row, "opening", rng.choice(OPENINGS) + text, False, False))
    if rng.random() < 0.25:
        made.append(_pair(row, "refusal", rng.choice(REFUSALS + REDIRECTIONS[:5]), False, True))
    return made


def _hard_pairs(row: TrainingPrompt, own: list[SampledAnswer], rng: random.Random) -> list[LabelledPair]:
    harmful = row.label == "harmful"
    answers = _served(own) if harmful else [a.response for a in own if a.response]
    text = rng.choice(answers or [restate(row.prompt)])
    made = []
    if rng.random() < (0.3 if harmful else 0.1):
        made.append(_pair(row, "partly_served", rng.choice(PARTLY) + text, harmful, None))
    if rng.random() < (0.3 if harmful else 0.05):
        made.append(_pair(row, "partly_safe", rng.choice(PARTLY) + rng.choice(REDIRECTIONS), False, None))
    if rng.random() < (0.3 if harmful else 0.2):
        made.append(_pair(row, "wrapped", wrapped(text, rng), harmful, False))
    return made


def _served(own: list[SampledAnswer]) -> list[str]:
    return [a.response for a in own if a.style != "discourage" and a.response and not _DECLINES.search(a.response)]


def _pair(row: TrainingPrompt, kind: str, response: str, unsafe: bool, refusal: bool | None) -> LabelledPair:
    return LabelledPair(row.prompt, response, unsafe, row.label == "harmful", refusal, f"{row.label}:{kind}", row.topic)


_ASKING = re.compile(
    r"^(?:how (?:do|can|could|would|should) (?:i|you|we|someone)|can you|could you|please|tell me how to)\s+", re.IGNORECASE
)


def restate(prompt: str) -> str:
    """Return the request as the beginning of an answer that serves it."""
    text = prompt.strip().rstrip("?.! ")
    text = _ASKING.sub("", text)
    text = re.sub(r"\bmy\b", "your", re.sub(r"\bi\b", "you", text))
    return f"To {text[:1].lower()}{text[1:]}, first get what you need, then go through it step by step: 1. Prepare"


def held_out(pair: LabelledPair, share: float = 0.15) -> bool:
    """Return whether a pair is for validation: by topic where there is one, else by prompt, so that no prompt is in both."""
    return crc32((pair.topic or pair.prompt).encode()) % 1000 < 1000 * share


def _rng(seed: int, text: str) -> random.Random:
    return random.Random(f"{seed}:{text}")
