"""The guarded system (paper, eq. 1-2): draw y; return it with probability alpha = p(s=1|x,y), else the fixed refusal."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from softguard.core import REFUSAL_TEXT, Conversation, Guard, Piece, Reply, ReplySettings, Verdict
from softguard.core.protocols import Progress
from softguard.models import ChatRenderer, KnownPrefix, LanguageModel, sample, stream
from softguard.models.drawing import uniforms
from softguard.teacher.policy import Policy
from softguard.teacher.record import Outcome


@dataclass(frozen=True)
class Draft:
    """What the base model said: its text, and whether it was cut."""

    text: str
    truncated: bool


@dataclass(frozen=True)
class Weighed:
    """What the guarded system makes of a response: it keeps it with probability `alpha`, else says one of `outcomes`.

    `p_safe` and `categories` are the guard's, NaN and empty where it is `ungraded`; without a policy alpha is p_safe, and
    outcomes are empty for the one refusal.
    """

    alpha: float
    p_safe: float
    categories: Mapping[str, float]
    outcomes: tuple[Outcome, ...] = ()
    ungraded: str | None = None


class GuardedSystem:
    """LLM + guard as one system. An ungraded draft is withheld and says so: unknown is never called safe."""

    def __init__(self, lm: LanguageModel, guard: Guard, refusal_text: str = REFUSAL_TEXT, policy: Policy | None = None) -> None:
        self.lm = lm
        self.policy = policy
        self.guard = guard
        self.refusal_text = refusal_text
        self.renderer = ChatRenderer(lm.tokenizer)
        self.refusal_token = self.renderer.encode_response(refusal_text)[0]

    @property
    def name(self) -> str:
        """`guarded`."""
        return "guarded"

    @property
    def fixed_texts(self) -> frozenset[str]:
        """All that it says instead of drafts, whatever they are: the refusal, and what a policy names beside it."""
        return frozenset({self.refusal_text}) | (self.policy.fixed_texts if self.policy else frozenset())

    @property
    def _refusals(self) -> frozenset[str]:
        return frozenset({self.refusal_text}) | (self.policy.config.refusals if self.policy else frozenset())

    @property
    def context(self) -> int | None:
        """The most tokens that prompt and answer may have together."""
        return self.lm.context

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """Return the rendered ids."""
        return list(self.renderer.render(conversation).ids)

    def prompt_length(self, conversation: Conversation) -> int:
        """Return the tokens of a prompt."""
        return len(self.prompt_ids(conversation))

    def respond(
        self,
        conversations: Sequence[Conversation],
        ids: Sequence[str],
        settings: ReplySettings,
        progress: Progress | None = None,
    ) -> list[Reply]:
        """Return drafts that pass and refusals for the others; the draw is keyed on (seed, id)."""
        drafts = sample(
            self.lm,
            [self.prompt_ids(c) for c in conversations],
            list(ids),
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            seed=settings.seed,
            refusal_token=self.refusal_token,
            progress=progress,
        )
        return self.decide(conversations, ids, [Draft(self.renderer.decode(d.ids), d.truncated) for d in drafts], settings.seed)

    @cached_property
    def _known_prefix(self) -> KnownPrefix:
        """What two requests without a system turn of their own begin with."""
        return KnownPrefix.of(self.lm, [self.prompt_ids(Conversation.from_prompt(text)) for text in ("a", "b")], None)

    def stream(self, conversation: Conversation, key: str, settings: ReplySettings) -> Iterator[Piece]:
        """Give the answer of `respond` in one piece at the end: nothing of a draft is shown before its verdict."""
        prompt = self.prompt_ids(conversation)
        tokens = stream(
            self.lm,
            self.renderer,
            prompt,
            key,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            seed=settings.seed,
            refusal_token=self.refusal_token,
            prefix=self._known_prefix.before(prompt),
        )
        for token in tokens:
            yield Piece("", token.tokens)
            if token.done is not None:
                draft = Draft(self.renderer.decode(token.done.ids), token.done.truncated)
                reply = self.decide([conversation], [key], [draft], settings.seed)[0]
                length = len(self.renderer.encode_response(reply.text)) if reply.replaced else token.tokens
                yield Piece(reply.text, token.tokens, reply, length)

    def decide(
        self, conversations: Sequence[Conversation], ids: Sequence[str], drafts: Sequence[Draft], seed: int
    ) -> list[Reply]:
        """Return the base model's `drafts` where they pass and refusals for the others; the draw is keyed on (seed, id)."""
        weighed = self.weigh(conversations, [d.text for d in drafts])
        replies = []
        for key, draft, w in zip(ids, drafts, weighed, strict=True):
            if w.ungraded is not None:
                replies.append(Reply(self.refusal_text, math.nan, False, None, True, draft=draft.text, ungraded=w.ungraded))
                continue
            drawn = float(uniforms(seed, f"guard:{key}", 1)[0])
            replaced = drawn >= w.alpha
            replies.append(
                Reply(
                    text=self._instead(w, drawn) if replaced else draft.text,
                    refusal_log_odds=log_odds_of(1 - w.alpha),
                    truncated=draft.truncated and not replaced,
                    p_safe=w.p_safe,
                    replaced=replaced,
                    draft=draft.text,
                    alpha=w.alpha,
                    instead={o.text: o.weight for o in w.outcomes if o.weight > 0 and o.text not in self._refusals},
                )
            )
        return replies

    def weigh(self, conversations: Sequence[Conversation], responses: Sequence[str]) -> list[Weighed]:
        """Return with what probability each response is kept, and what is said instead."""
        verdicts = self.guard.judge([c.answered(r) for c, r in zip(conversations, responses, strict=True)])
        return [self.weigh_verdict(c, r, v) for c, r, v in zip(conversations, responses, verdicts, strict=True)]

    def weigh_verdict(self, conversation: Conversation, response: str, verdict: Verdict) -> Weighed:
        """Return the same of one response whose verdict is known."""
        if verdict.p_safe is None:
            return Weighed(math.nan, math.nan, {}, ungraded=verdict.ungraded)
        if self.policy is None:
            return Weighed(verdict.p_safe, verdict.p_safe, verdict.categories)
        decided = self.policy.decide(conversation, response, verdict)
        end = self.lm.turn_end_id
        outcomes = tuple(
            Outcome(text, (*self.renderer.encode_response(text), end), weight) for text, weight in decided.instead.items()
        )
        return Weighed(decided.kept, verdict.p_safe, verdict.categories, outcomes)

    def _instead(self, weighed: Weighed, drawn: float) -> str:
        """Return what the draw, at or above alpha, falls on."""
        level = weighed.alpha
        for outcome in weighed.outcomes:
            level += outcome.weight
            if drawn < level:
                return outcome.text
        return weighed.outcomes[-1].text if weighed.outcomes else self.refusal_text

    def refusal_log_odds(self, conversations: Sequence[Conversation]) -> list[float]:
        """Return the log-odds of 1 - p_safe of one greedy draft each: the guard has to read an answer."""
        settings = ReplySettings(max_new_tokens=48)
        replies = self.respond(conversations, [str(i) for i in range(len(conversations))], settings)
        return [r.refusal_log_odds for r in replies]


def log_odds_of(p: float) -> float:
    """Return log p - log(1-p), infinite at 0 and 1."""
    if p <= 0 or p >= 1:
        return -math.inf if p <= 0 else math.inf
    return math.log(p) - math.log1p(-p)
