"""Reading a language model's answers: the probabilities of the words that it may say after a prompt, none of them drawn.

One idea: answers are branches of a tree. What the prompts of a call begin with is run once (`models.shared_prefix`), what the
prompts of one group begin with once for the group, and a context that begins another is run with it. What the questions mean is
no business of this module: see `family`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch

from softguard.errors import CompatibilityError
from softguard.guards.family import Question, Reading, read_answers
from softguard.models import LanguageModel, response_states

_HEAD_ROWS = 128
"""Positions whose logits are made together: a vocabulary of 256,000 in float32 is a megabyte for each."""


def encoded(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of a rendered prompt, whose special tokens stand in its text."""
    return [int(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"]]


@torch.inference_mode()
def read_texts(
    lm: LanguageModel,
    texts: Sequence[str],
    questions: Sequence[Question],
    groups: Sequence[int] = (),
    *,
    window: float = float("inf"),
    token_budget: int = 4096,
) -> list[Reading | None]:
    """Return what a model says to each prompt; None where the prompt with its answers is longer than `window`.

    An answer's probability is that of its tokens up to the one that tells it from the other answers: one token where their
    first tokens differ, as the families' own score rules have it.

    Args:
        lm: the model.
        texts: rendered prompts.
        questions: asked of each.
        groups: a number for each text; those with the same one are run as branches of what they begin with. Empty: each alone.
        window: in tokens.
        token_budget: padded tokens of a batch.
    """
    trees = [_answer_tree(lm.tokenizer, text, questions) for text in texts]
    members: dict[int, list[int]] = {}
    for i, tree in enumerate(trees):
        if tree.length <= window:
            members.setdefault(groups[i] if groups else i, []).append(i)
    branches = [branch for of in members.values() for branch in _branches([trees[i] for i in of], of)]
    if not branches:
        return [None] * len(texts)
    states = response_states(lm, [x.prompt for x in branches], [[*x.context, 0] for x in branches], token_budget=token_budget)
    log_probs = _log_probs(lm, states.states, branches)
    out: list[Reading | None] = []
    for i, tree in enumerate(trees):
        if tree.length > window:
            out.append(None)
            continue
        found = {path: sum(log_probs[i, where.path, t] for t in where.reads) for path, where in tree.answers.items()}
        out.append(read_answers(questions, partial(_next_answers, found)))
    return out


_Place = tuple[int, tuple[str, ...], int]
"""A scored token: the text's number, the answers written after it, and the token's position."""


def _next_answers(found: Mapping[tuple[str, ...], float], path: tuple[str, ...]) -> Mapping[str, float]:
    return {longer[-1]: value for longer, value in found.items() if longer[:-1] == path}


@dataclass(frozen=True)
class _Where:
    """Where an answer is scored: on the ids of `path` (all questions answered), the tokens at `reads`."""

    path: tuple[str, ...]
    reads: list[int]


@dataclass(frozen=True)
class _AnswerTree:
    """All ways to answer the questions after one prompt: the ids of each, and for the answers up to each question where they
    are scored; `length` of the longest in tokens."""

    ids: Mapping[tuple[str, ...], list[int]]
    answers: Mapping[tuple[str, ...], _Where]
    length: int


@dataclass(frozen=True)
class _Branch:
    """A context to run after a prompt, and what is scored on it: where from, the state's index, the token."""

    prompt: list[int]
    context: list[int]
    scored: list[tuple[_Place, int, int]]


def _answer_tree(tokenizer: Any, text: str, questions: Sequence[Question]) -> _AnswerTree:
    """Return the tree of a prompt.

    Raises:
        CompatibilityError: the tokenizer does not tell two answers apart.
    """
    paths = list(product(*(q.answers for q in questions)))
    ids, spans = {}, {}
    for path in paths:
        ids[path], spans[path] = _spans(tokenizer, text, questions, path)
    shared = _common_length(list(ids.values()))
    answers: dict[tuple[str, ...], _Where] = {}
    for path in paths:
        for depth in range(len(questions)):
            if path[: depth + 1] in answers:
                continue
            span = range(*spans[path][depth])
            siblings = [p for p in paths if p[:depth] == path[:depth] and p[depth] != path[depth]]
            others = [[ids[p][t] for t in range(*spans[p][depth])] for p in siblings]
            own = [ids[path][t] for t in span]
            needed = 1 + max(_common_length([own, other]) for other in others)
            if needed > len(own):
                alike = f"{path[depth]!r} begins another answer"
                raise CompatibilityError("a tokenizer that tells the answers apart", alike, "use the family's own weights")
            # What all paths share is as likely on each of them, and comes before the first state that is run.
            answers[path[: depth + 1]] = _Where(path, [t for t in span[:needed] if t >= shared])
    return _AnswerTree(ids, answers, max(len(x) for x in ids.values()))


def _branches(trees: Sequence[_AnswerTree], texts: Sequence[int]) -> list[_Branch]:
    """Return as few branches as score every answer of a group of texts: a context that begins another is run with it."""
    shared = _common_length([ids for tree in trees for ids in tree.ids.values()])
    wanted: dict[tuple[int, ...], list[tuple[_Place, int]]] = {}
    for tree, text in zip(trees, texts, strict=True):
        for where in tree.answers.values():
            ids = tree.ids[where.path]
            for t in where.reads:
                wanted.setdefault(tuple(ids[shared:t]), []).append(((text, where.path, t), ids[t]))
    prompt = next(iter(trees[0].ids.values()))[:shared]
    branches: list[_Branch] = []
    for context in sorted(wanted, key=len, reverse=True):
        branch = next((b for b in branches if tuple(b.context[: len(context)]) == context), None)
        if branch is None:
            branch = _Branch(prompt, list(context), [])
            branches.append(branch)
        branch.scored.extend((key, len(context), token) for key, token in wanted[context])
    return branches


def _log_probs(lm: LanguageModel, states: torch.Tensor, branches: Sequence[_Branch]) -> dict[_Place, float]:
    """Return the log-probability of every scored token; `states` are those of the branches, in order."""
    scored: dict[int, list[tuple[_Place, int]]] = {}
    start = 0
    for branch in branches:
        for key, index, token in branch.scored:
            scored.setdefault(start + index, []).append((key, token))
        start += len(branch.context) + 1
    out: dict[_Place, float] = {}
    rows = list(scored)
    for first in range(0, len(rows), _HEAD_ROWS):
        part = rows[first : first + _HEAD_ROWS]
        log_p = lm.head(states[part]).log_softmax(-1)
        for row, values in zip(part, log_p, strict=True):
            keys, tokens = zip(*scored[row], strict=True)
            out.update(zip(keys, values[list(tokens)].tolist(), strict=True))
    return out


def _spans(
    tokenizer: Any, text: str, questions: Sequence[Question], path: Sequence[str]
) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the ids of a prompt with its answers written out, and for each answer the range of its tokens."""
    places = []
    for question, answer in zip(questions, path, strict=True):
        text += question.lead
        places.append((len(text), len(text) + len(answer)))
        text += answer
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = found["offset_mapping"]
    spans = []
    for start, end in places:
        inside = [t for t, (a, b) in enumerate(offsets) if b > start and a < end]
        spans.append((inside[0], inside[-1] + 1))
    return [int(i) for i in found["input_ids"]], spans


def _common_length(rows: Sequence[Sequence[int]]) -> int:
    """Return how many first ids all rows share."""
    shortest = min(len(r) for r in rows)
    return next((t for t in range(shortest) if len({r[t] for r in rows}) > 1), shortest)
