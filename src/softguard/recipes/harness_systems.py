"""Our systems as models of lm-evaluation-harness: what they answer, and how probable given answers are to them.

One idea: a likelihood is that of the system as a distribution over answers. A student's operating point has no probabilities to
give, so that it plays no part here; whoever counts right answers counts what it declines as wrong.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby

import torch

from softguard.core import Conversation, Reply, ReplySettings
from softguard.core.protocols import Progress
from softguard.errors import DataError
from softguard.evaluation.harness import HarnessModel, Likelihood
from softguard.models import ChatRenderer, response_states
from softguard.recipes.halving import in_batches
from softguard.recipes.remembering import Store, digest
from softguard.recipes.student import ModelSystem
from softguard.teacher import GuardedSystem
from softguard.teacher.guarded_system import log_odds_of

BATCH_PROMPTS, BATCH_TOKENS = 64, 512
"""Prompts that are scored together, and tokens of answers: each of these has a row of logits."""


def harness_model(system: ModelSystem | GuardedSystem) -> HarnessModel:
    """Return a system as a model for the harness's `evaluate`, with nothing kept.

    The guarded system answers as it does in use: it draws whether its draft is kept, with a draw keyed on the request. Its
    likelihoods are those of `guarded_likelihoods`.
    """

    def answer(conversations: Sequence[Conversation], most: int) -> list[Reply]:
        asked = [fitting(system.renderer, c) for c in conversations]
        return system.respond(asked, [digest(c.to_dicts()) for c in asked], ReplySettings(max_new_tokens=most))

    def score(conversations: Sequence[Conversation], answers: Sequence[str]) -> list[Likelihood]:
        asked = [fitting(system.renderer, c) for c in conversations]
        if isinstance(system, ModelSystem):
            return likelihoods(system, asked, answers)
        base = ModelSystem("base", system.lm, refusal_text=system.refusal_text)
        return guarded_likelihoods(system, asked, answers, likelihoods(base, asked, answers))

    return HarnessModel(answer, score)


def fitting(renderer: ChatRenderer, conversation: Conversation) -> Conversation:
    """Return a conversation without the task's own system turn where the model's template takes none, as the harness does."""
    first, *rest = conversation.messages
    return Conversation(tuple(rest)) if first.role == "system" and renderer.around_system is None else conversation


@torch.inference_mode()
def likelihoods(system: ModelSystem, conversations: Sequence[Conversation], answers: Sequence[str]) -> list[Likelihood]:
    """Return log p(answer | request) for each pair, in nats, without the end of the turn: the answer may go on.

    What does not fit the model's context is ungraded.

    Raises:
        DataError: an answer without a token.
    """
    responses = [system.renderer.encode_response(a) for a in answers]
    if not all(responses):
        raise DataError("answers of at least one token", "an empty one", "correct the task")
    known = {c: system.prompt_ids(c) for c in dict.fromkeys(conversations)}
    prompts = [known[c] for c in conversations]
    with system.running() as lm:
        lengths = [len(p) + len(r) + lm.prefix_positions for p, r in zip(prompts, responses, strict=True)]
        out = [_too_long(n, lm.context, len(r)) for n, r in zip(lengths, responses, strict=True)]
        fits = sorted((i for i, likelihood in enumerate(out) if likelihood is None), key=lambda i: (len(prompts[i]), prompts[i]))

        def score(batch: Sequence[int]) -> list[Likelihood]:
            scored = response_states(lm, [prompts[i] for i in batch], [responses[i] for i in batch], system.virtual_tokens)
            logits = lm.head(scored.states)
            each = (logits.gather(1, scored.targets[:, None]).squeeze(1) - logits.logsumexp(-1)).double()
            sums = each.new_zeros(len(batch)).index_add(0, scored.row, each).tolist()
            missed = torch.bincount(scored.row[logits.argmax(-1) != scored.targets], minlength=len(batch)).tolist()
            first = scored.position == 0
            opening = lm.refusal_scores(scored.states[first], logits[first], system.refusal_token).tolist()
            return [Likelihood(sums[k], missed[k] == 0, len(responses[i]), opening[k]) for k, i in enumerate(batch)]

        for batch, made in in_batches(fits, len(fits), score, lambda rest: _together(rest, prompts, responses)):
            for i, likelihood in zip(batch, made, strict=True):
                out[i] = likelihood
    return [likelihood for likelihood in out if likelihood is not None]


def _too_long(length: int, context: int | None, tokens: int) -> Likelihood | None:
    if context is None or length <= context:
        return None
    why = f"the prompt and its answer take {length} positions of the model's {context}"
    return Likelihood(math.nan, False, tokens, math.nan, why)


def _together(rows: Sequence[int], prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> list[int]:
    """Return the first rows that are scored together: the answers to one prompt always, since these share its pass."""
    batch: list[int] = []
    tokens = 0
    for held, (_, group) in enumerate(groupby(rows, key=lambda i: prompts[i])):
        own = list(group)
        tokens += sum(len(responses[i]) for i in own)
        if batch and (held == BATCH_PROMPTS or tokens > BATCH_TOKENS):
            break
        batch += own
    return batch


def guarded_likelihoods(
    teacher: GuardedSystem, conversations: Sequence[Conversation], answers: Sequence[str], base: Sequence[Likelihood]
) -> list[Likelihood]:
    """Return log p(answer | request) + log alpha(request, answer): of drawing the answer *and* keeping it (paper, eq. 1-2).

    alpha is the guard's probability of keeping an answer that consists of these words alone. So the figure is exact for an
    answer that ends there; of one that may go on, as a letter among choices, it is the probability as if it ended. What the
    guarded system says in place of an answer has a probability besides, which is not in it. Infinitely small where the guard
    is certain; ungraded where it gave no verdict.

    Args:
        teacher: the guarded system.
        conversations: the requests.
        answers: one for each.
        base: their likelihoods under the base model.
    """
    out = []
    for b, w in zip(base, teacher.weigh(conversations, answers), strict=True):
        why = b.ungraded or w.ungraded
        kept = math.nan if why else math.log(w.alpha) if w.alpha > 0 else -math.inf
        odds = math.nan if why else log_odds_of(1 - w.alpha)
        out.append(Likelihood(b.log_prob + kept, b.greedy, b.tokens, odds, why))
    return out


def remembered_likelihoods(
    system: ModelSystem,
    store: Store,
    conversations: Sequence[Conversation],
    answers: Sequence[str],
    progress: Progress | None = None,
) -> list[Likelihood]:
    """Return the likelihoods, scoring only those that are not kept."""
    keys = [digest(c.to_dicts(), a) for c, a in zip(conversations, answers, strict=True)]
    lacking = {k: (c, a) for k, c, a in zip(keys, conversations, answers, strict=True) if k not in store}
    by_prompt: dict[Conversation, list[str]] = {}
    for key, (conversation, _) in lacking.items():
        by_prompt.setdefault(conversation, []).append(key)
    groups = list(by_prompt.values())
    ungraded: dict[str, Likelihood] = {}
    for start in range(0, len(groups), BATCH_PROMPTS):
        if progress:
            progress(start, len(groups))
        batch = [key for group in groups[start : start + BATCH_PROMPTS] for key in group]
        made = dict(zip(batch, likelihoods(system, [lacking[k][0] for k in batch], [lacking[k][1] for k in batch]), strict=True))
        store.add({k: asdict(value) for k, value in made.items() if value.ungraded is None})
        ungraded |= {k: value for k, value in made.items() if value.ungraded is not None}
    if progress:
        progress(len(groups), len(groups))
    return [ungraded[k] if k in ungraded else Likelihood(**store[k]) for k in keys]
