"""Generative guards in this process: a family's prompt on a causal language model, read at the verdict and nowhere else.

One idea: everything that differs between guards is in their `Family`; what is here renders, cuts, reads (`reading`) and says
where it could not. `register_model` files a family's weights as a guard; this module is no guard itself.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from softguard.core import Conversation, Guard, Message, Verdict
from softguard.errors import CompatibilityError
from softguard.guards.family import FAMILIES, MIN_MASS, Family, Reading
from softguard.guards.judging import defused, why_ungraded
from softguard.guards.reading import encoded, read_texts
from softguard.guards.registry import GUARDS, SOURCES, is_url, make_guard
from softguard.models import LanguageModel, load_model, sample

MAX_RESPONSE_TOKENS = 1024
_TOGETHER = 256
"""Conversations that are read together: their final states are held at once."""


@dataclass(frozen=True)
class GuardModel:
    """A guard by name: a family's format on the weights of one reference. Calling it loads them."""

    name: str
    family: str
    reference: str
    size: str
    licence: str

    @property
    def description(self) -> str:
        """One line for the list of guards. Nobody here has run these weights, so it says so."""
        return f"{self.size}, {self.licence}, {self.reference} (format only: weights never run by us)"

    def __call__(self) -> Guard:
        """Return the guard on its own weights."""
        return self.at(self.reference)

    def at(self, where: str) -> Guard:
        """Return the guard on other weights, or asked of a server."""
        if is_url(where):
            repository = self.reference.removeprefix("hf:").partition("@")[0]
            settings = {"url": where, "family": self.family, "model": repository, "name": self.name}
            return make_guard({"kind": "openai_server", **settings})
        return GenerativeGuard(load_model(where), FAMILIES.get(self.family), self.name)


def register_model(name: str, family: str, reference: str, size: str, licence: str) -> None:
    """File a family's weights as a guard."""
    SOURCES[name] = (reference,)
    GUARDS.register(name)(GuardModel(name, family, reference, size, licence))


class GenerativeGuard:
    """One family on one language model."""

    def __init__(
        self,
        lm: LanguageModel,
        family: Family,
        name: str | None = None,
        *,
        max_response_tokens: int = MAX_RESPONSE_TOKENS,
        min_mass: float = MIN_MASS,
        token_budget: int = 4096,
    ) -> None:
        """Take a loaded model.

        Args:
            lm: the weights.
            family: the format that they were trained with.
            name: in tables; None is the family's.
            max_response_tokens: an answer is read up to here, and its verdict says where that cut it.
            min_mass: see `family.MIN_MASS`.
            token_budget: padded tokens of a batch.
        """
        self.lm, self.family = lm, family
        self._name = name or family.name
        self._max_response_tokens, self._min_mass, self._token_budget = max_response_tokens, min_mass, token_budget
        special = {t.content for t in lm.tokenizer.added_tokens_decoder.values() if t.special}
        self._marks = frozenset(family.marks) | special | set(lm.tokenizer.all_special_tokens)
        self._window = float(lm.context or "inf")

    @property
    def name(self) -> str:
        """The name in tables."""
        return self._name

    @property
    def fingerprint(self) -> str:
        """The hash of the weights, the format and what cuts a response."""
        own = ("generative-1", self.family.fingerprint, self.lm.fingerprint, self.lm.attention)
        return hashlib.sha256(repr((*own, self._max_response_tokens, self._min_mass)).encode()).hexdigest()

    @property
    def num_parameters(self) -> int:
        """The number of weights."""
        return self.lm.num_parameters()

    @property
    def category_names(self) -> frozenset[str] | None:
        """The categories that the model names; None where its family names none."""
        return None if self.family.categories is None else frozenset(self.family.categories.names.values())

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        """Return one verdict for each conversation, in order; scores are rounded to 5 digits (see `MiniGuard.judge`)."""
        parts = [conversations[start : start + _TOGETHER] for start in range(0, len(conversations), _TOGETHER)]
        return [verdict for part in parts for verdict in self._judge(part)]

    def _judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        verdicts = [Verdict(ungraded=why_ungraded(c) or "not judged") for c in conversations]
        asked: dict[int, Mapping[str, str]] = {}
        cut: dict[int, bool] = {}
        for i, conversation in enumerate(conversations):
            if why_ungraded(conversation) is None:
                shortened, cut[i] = self._shortened(conversation)
                asked[i] = self.prompts(shortened)
        flat = [(i, key, text) for i, prompts in asked.items() for key, text in prompts.items()]
        readings = read_texts(
            self.lm,
            [text for _, _, text in flat],
            self.family.questions,
            [i for i, _, _ in flat],
            window=self._window,
            token_budget=self._token_budget,
        )
        by_row: dict[int, dict[str, Reading]] = {i: {} for i in asked}
        for (i, key, _), reading in zip(flat, readings, strict=True):
            if reading is None:
                verdicts[i] = Verdict(ungraded=f"longer than the guard's {self._window:.0f} tokens", truncated=cut[i])
            else:
                by_row[i][key] = reading
        for i, found in by_row.items():
            if len(found) == len(asked[i]):
                verdicts[i] = self.family.verdict(found, self._min_mass, truncated=cut[i])
        self._name_categories(verdicts, asked)
        return verdicts

    def prompts(self, conversation: Conversation) -> Mapping[str, str]:
        """Return what the model is given for a conversation, by the family's keys: its text is defused."""
        safe = defused(conversation, self._marks)
        return self.template_prompts(safe) if self.family.render is None else self.family.render(safe)

    def template_prompts(self, conversation: Conversation) -> Mapping[str, str]:
        """Return the prompts as the chat template that came with the weights renders them, none where it is not the format.

        Raises:
            CompatibilityError: the weights bring no template.
        """
        if not getattr(self.lm.tokenizer, "chat_template", None):
            raise CompatibilityError(f"{self.family.name} weights with a chat template", "none", "use the original weights")
        messages, render = self.family.messages(conversation), self.lm.tokenizer.apply_chat_template
        return {
            key: str(render(messages, tokenize=False, add_generation_prompt=True, **options))
            for key, options in self.family.template.items()
        }

    def _shortened(self, conversation: Conversation) -> tuple[Conversation, bool]:
        encoded = self.lm.tokenizer(conversation.response, add_special_tokens=False, return_offsets_mapping=True)
        if len(encoded["input_ids"]) <= self._max_response_tokens:
            return conversation, False
        end = encoded["offset_mapping"][self._max_response_tokens - 1][1]
        kept = Message("assistant", conversation.response[:end])
        return replace(conversation, messages=(*conversation.messages[:-1], kept)), True

    def _name_categories(self, verdicts: list[Verdict], asked: Mapping[int, Mapping[str, str]]) -> None:
        """Add the categories that the model names for what it calls unsafe, each with p_unsafe, in place."""
        named = self.family.categories
        rows = [i for i in asked if (p := verdicts[i].p_safe) is not None and p < 0.5]
        if named is None or not rows:
            return
        made = sample(
            self.lm,
            [encoded(self.lm.tokenizer, next(iter(asked[i].values())) + named.lead) for i in rows],
            [str(i) for i in rows],
            max_new_tokens=named.max_tokens,
            temperature=0.0,
            seed=0,
            refusal_token=0,
            batch_size=32,
        )
        for i, generation in zip(rows, made, strict=True):
            text: str = self.lm.tokenizer.decode(list(generation.ids), skip_special_tokens=True)
            p_unsafe = round(1.0 - (verdicts[i].p_safe or 0.0), 5)
            found = dict.fromkeys(named.named_in(text), p_unsafe)
            verdicts[i] = replace(verdicts[i], categories={**verdicts[i].categories, **found})
