"""Systems made of a model and, where there is one, an adapter: base, hard system prompt, student."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property

from torch import Tensor

from softguard.adapters import Adapter
from softguard.core import REFUSAL_TEXT, Conversation, Message, Piece, Reply, ReplySettings
from softguard.core.protocols import Progress
from softguard.models import ChatRenderer, DecisionRow, Generation, KnownPrefix, LanguageModel, refusal_log_odds, sample, stream


class ModelSystem:
    """A model that answers alone: as it is, under a system prompt, or with an adapter and its operating point.

    `threshold` is the calibrated scalar b of the operating point: the system refuses iff s > b. None leaves the model's own
    decoding to decide. `decision` scores the refusal by a row of the head instead of its log-odds. `policy_refusals` count as
    refusals beside `refusal_text`: the texts of a policy's refuse actions.
    """

    def __init__(
        self,
        name: str,
        lm: LanguageModel,
        *,
        adapter: Adapter | None = None,
        system_prompt: str | None = None,
        threshold: float | None = None,
        decision: DecisionRow | None = None,
        refusal_text: str = REFUSAL_TEXT,
        policy_refusals: Collection[str] = (),
    ) -> None:
        self._name, self.lm, self.adapter, self.decision = name, lm, adapter, decision
        self._system_prompt, self.threshold, self.refusal_text = system_prompt, threshold, refusal_text
        self._refusals = [text.strip() for text in (refusal_text, *policy_refusals)]
        self.renderer = ChatRenderer(lm.tokenizer)
        self.refusal_token = self.refusal_ids(self.renderer.encode_response(refusal_text))[0]

    def refusal_ids(self, ids: Sequence[int]) -> list[int]:
        """Return what this system says where it refuses, given the ids of the refusal (`Adapter.refusal`)."""
        return list(ids) if self.adapter is None else self.adapter.refusal(self.lm, ids)

    @property
    def name(self) -> str:
        """The name in tables."""
        return self._name

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """Return the rendered ids, virtual tokens included, our system prompt in front of what the conversation has of one."""
        prompt = self.renderer.render(conversation if self._system_prompt is None else self._prompted(conversation))
        return list(prompt.ids) if self.adapter is None else self.adapter.extend(prompt)

    def _prompted(self, conversation: Conversation) -> Conversation:
        """Return the conversation under our system prompt: as its system turn, or before the first user's text, a blank line
        between, where the template takes none (https://ai.google.dev/gemma/docs/core/prompt-structure advises this)."""
        first, *rest = conversation.messages
        own = first.role == "system"
        system = f"{self._system_prompt}\n\n{first.content}" if own else f"{self._system_prompt}"
        turns = rest if own else [first, *rest]
        user = next((i for i, m in enumerate(turns) if m.role == "user"), None)
        if self.renderer.around_system is not None or user is None:
            return Conversation((Message("system", system), *turns))
        turns[user] = Message("user", f"{system}\n\n{turns[user].content}")
        return Conversation(tuple(turns))

    def prompt_length(self, conversation: Conversation) -> int:
        """Return how many positions the answer comes after: the ids, and those whose keys and values the adapter holds."""
        with self.running() as lm:
            return len(self.prompt_ids(conversation)) + lm.prefix_positions

    @contextmanager
    def running(self) -> Iterator[LanguageModel]:
        """Give the model to run for the length of a `with` block: the base model, or the student with its adapter attached."""
        with nullcontext(self.lm) if self.adapter is None else self.adapter.attach(self.lm) as lm:
            yield lm if self.decision is None else replace(lm, decision=self.decision)

    @property
    def virtual_tokens(self) -> Tensor | None:
        """The adapter's learned input vectors, None where there are none."""
        return None if self.adapter is None else self.adapter.virtual_tokens()

    def respond(
        self,
        conversations: Sequence[Conversation],
        ids: Sequence[str],
        settings: ReplySettings,
        progress: Progress | None = None,
    ) -> list[Reply]:
        """Return the answers. With a threshold, a prompt whose s exceeds it gets the refusal text and is not decoded."""
        return self.respond_to_ids([self.prompt_ids(c) for c in conversations], ids, settings, self.virtual_tokens, progress)

    def respond_to_ids(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[str],
        settings: ReplySettings,
        virtual_tokens: Tensor | None,
        progress: Progress | None = None,
    ) -> list[Reply]:
        """Return the answers to prompts that are ids already, with whatever vectors their negative ids stand for."""
        with self.running() as lm:
            generations = sample(
                lm,
                prompts,
                keys,
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                seed=settings.seed,
                refusal_token=self.refusal_token,
                refuse_above=self.threshold,
                virtual_tokens=virtual_tokens,
                progress=progress,
            )
        return [self._reply(g) for g in generations]

    def _reply(self, g: Generation) -> Reply:
        text = self.refusal_text if g.refused else self.renderer.decode(g.ids)
        return Reply(text, g.refusal_log_odds, g.truncated, refused=g.refused or self.says_refusal(text, g.truncated))

    @property
    def context(self) -> int | None:
        """The most tokens that prompt and answer may have together."""
        return self.lm.context

    @cached_property
    def _known_prefix(self) -> KnownPrefix:
        """What two requests without a system turn of their own begin with."""
        samples = [self.prompt_ids(Conversation.from_prompt(text)) for text in ("a", "b")]
        with self.running() as lm:
            return KnownPrefix.of(lm, samples, self.virtual_tokens)

    def stream(self, conversation: Conversation, key: str, settings: ReplySettings) -> Iterator[Piece]:
        """Give the answer of `respond` piece by piece. The adapter is attached for each pass, not between two."""
        prompt, prefix = self.prompt_ids(conversation), self._known_prefix
        with self.running() as lm:
            tokens = stream(
                lm,
                self.renderer,
                prompt,
                key,
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                seed=settings.seed,
                refusal_token=self.refusal_token,
                refuse_above=self.threshold,
                virtual_tokens=self.virtual_tokens,
                prefix=prefix.before(prompt),
            )
        while True:
            with self.running():
                token = next(tokens)
            if token.done is None:
                yield Piece(token.text, token.tokens)
                continue
            reply = self._reply(token.done)
            if token.done.refused:
                yield Piece(reply.text, 0, reply, len(self.renderer.encode_response(reply.text)))
            else:
                yield Piece(token.text, token.tokens, reply, token.tokens)
            return

    def says_refusal(self, text: str, truncated: bool) -> bool:
        """Return whether an answer opens with the refusal text or a policy's, or was cut within one."""
        return any(text.startswith(r) or (truncated and text != "" and r.startswith(text)) for r in self._refusals)

    def refusal_log_odds(self, conversations: Sequence[Conversation], progress: Progress | None = None) -> list[float]:
        """Return s for each prompt, one forward pass each."""
        prompts = [self.prompt_ids(c) for c in conversations]
        with self.running() as lm:
            return refusal_log_odds(lm, prompts, self.refusal_token, self.virtual_tokens, progress=progress)
