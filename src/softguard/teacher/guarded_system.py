"""The guarded system (paper, eq. 1-2): draw y; return it with probability alpha = p(s=1|x,y), else the fixed refusal."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from softguard.core import REFUSAL_TEXT, Conversation, Guard, Piece, Reply, ReplySettings
from softguard.core.protocols import Progress
from softguard.models import ChatRenderer, KnownPrefix, LanguageModel, sample, stream
from softguard.models.sampling import uniforms


@dataclass(frozen=True)
class Draft:
    """What the base model said: its text, and whether it was cut."""

    text: str
    truncated: bool


class GuardedSystem:
    """LLM + guard as one system. An ungraded draft is withheld and says so: unknown is never called safe."""

    def __init__(self, lm: LanguageModel, guard: Guard, refusal_text: str = REFUSAL_TEXT) -> None:
        self.lm = lm
        self.guard = guard
        self.refusal_text = refusal_text
        self.renderer = ChatRenderer(lm.tokenizer)
        self.refusal_token = self.renderer.encode_response(refusal_text)[0]

    @property
    def name(self) -> str:
        """`guarded`."""
        return "guarded"

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
        verdicts = self.guard.judge([c.answered(d.text) for c, d in zip(conversations, drafts, strict=True)])
        replies = []
        for key, draft, verdict in zip(ids, drafts, verdicts, strict=True):
            if verdict.p_safe is None:
                replies.append(Reply(self.refusal_text, math.nan, False, None, True, draft=draft.text, ungraded=verdict.ungraded))
                continue
            replaced = bool(uniforms(seed, f"guard:{key}", 1)[0] >= verdict.p_safe)
            replies.append(
                Reply(
                    text=self.refusal_text if replaced else draft.text,
                    refusal_log_odds=log_odds_of(1 - verdict.p_safe),
                    truncated=draft.truncated and not replaced,
                    p_safe=verdict.p_safe,
                    replaced=replaced,
                    draft=draft.text,
                )
            )
        return replies

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
