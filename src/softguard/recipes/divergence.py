"""How far a run's systems are from the guarded system on the prompts of a suite: drafts, verdicts and scores for the estimators.

For each prompt K drafts of the base model at temperature 1 are drawn, judged by the training guard, and scored under every system
in one pass that they share. A system's own threshold decides its decision divergence; its text is scored as it is without one,
since a threshold has no probabilities. `evaluation.divergence` defines the figures and says what they promise.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from softguard.core import Conversation
from softguard.core.protocols import Progress
from softguard.evaluation import metrics
from softguard.evaluation.divergence import (
    MIN_DRAWS,
    Drafts,
    bounded_mean,
    decision_gap,
    sequence_total_variation,
    token_total_variation,
)
from softguard.evaluation.results import MetricValue
from softguard.evaluation.statistics import Clusters
from softguard.models import Generation, LanguageModel, response_states, sample
from softguard.models.drawing import log_odds
from softguard.objectives.fused_head import token_figures
from softguard.recipes.distill import Report
from softguard.recipes.halving import in_batches
from softguard.recipes.remembering import RememberingGuard, Store, digest
from softguard.recipes.student import ModelSystem
from softguard.teacher import GuardedSystem

PROMPTS_AT_ONCE = 8
DRAFTS_AT_ONCE = 128
FIGURES = ("decision_divergence", "sequence_tv", "token_tv")


@dataclass(frozen=True)
class _Prompt:
    """A prompt with its drafts: ids, and alpha for each (NaN where ungraded)."""

    conversation: Conversation
    drafts: list[list[int]]
    alpha: list[float]

    @property
    def key(self) -> str:
        """A hash of all that its figures depend on but the systems."""
        return digest(self.conversation.to_dicts(), self.drafts, self.alpha)


@dataclass(frozen=True)
class _Scored:
    """States and log-probabilities of the tokens of one response under one system."""

    states: Tensor
    targets: Tensor
    log_prob: float
    token_log_probs: list[float]


def divergences(
    teacher: GuardedSystem,
    systems: Sequence[ModelSystem],
    conversations: Sequence[Conversation],
    draws: int,
    max_new_tokens: int,
    clusters: Clusters,
    report: Report,
    store_of: Callable[[str], Store] | None = None,
) -> dict[str, dict[str, MetricValue]]:
    """Return the three figures of every system by name; `systems` begins with the base model.

    A prompt of which fewer than `MIN_DRAWS` drafts were graded counts as ungraded.

    Args:
        teacher: the guarded system.
        systems: what is compared with it.
        conversations: the prompts.
        draws: drafts of each.
        max_new_tokens: of a draft.
        clusters: families of the prompts.
        report: is told how far it is.
        store_of: where a system's figures are kept, by its name, bound to all that made the system; None keeps them nowhere.
    """
    guard = teacher.guard if isinstance(teacher.guard, RememberingGuard) else RememberingGuard(teacher.guard)
    prompts = _drafted(teacher, guard, systems[0], conversations, draws, max_new_tokens, report)
    refusal = [*teacher.renderer.encode_response(teacher.refusal_text), teacher.lm.turn_end_id][:max_new_tokens]
    rows: dict[str, dict[str, list[float]]] = {s.name: {f: [] for f in FIGURES} for s in systems}
    stores = {s.name: store_of(s.name) for s in systems} if store_of else {}
    for start in range(0, len(prompts), PROMPTS_AT_ONCE):
        report("divergence", start, len(prompts), {})
        made: dict[str, dict[str, dict[str, float]]] = {s.name: {} for s in systems}
        for prompt in prompts[start : start + PROMPTS_AT_ONCE]:
            kept = {name: store[prompt.key] for name, store in stores.items() if prompt.key in store}
            new = _figures(prompt, systems[0], [s for s in systems if s.name not in kept], refusal)
            for name, figures in (kept | new).items():
                for figure, value in figures.items():
                    rows[name][figure].append(value)
            for name, figures in new.items():
                made[name][prompt.key] = figures
        for name, store in stores.items():
            store.add(made[name])
    report("divergence", len(prompts), len(prompts), {})
    return {name: {f: _bounded(values, clusters) for f, values in figures.items()} for name, figures in rows.items()}


def _bounded(values: list[float], clusters: Clusters) -> MetricValue:
    if all(math.isnan(v) for v in values):
        return metrics.not_measured("rate", f"no prompt has {MIN_DRAWS} graded drafts")
    found = bounded_mean(values, 0, clusters)
    over = "families" if clusters is not None else "prompts"
    note = f"at most {100 * found.upper_limit:.1f} % with {found.confidence:.0%} confidence (empirical Bernstein, over {over})"
    return metrics.mean_value(found.estimate, "rate", note)


def _drafted(
    teacher: GuardedSystem,
    guard: RememberingGuard,
    base: ModelSystem,
    conversations: Sequence[Conversation],
    draws: int,
    max_new_tokens: int,
    report: Report,
) -> list[_Prompt]:
    """Return the prompts with their drafts and the guard's alpha, drawn and judged where they are not kept."""
    lm = teacher.lm
    store = Store("drafts", lm.fingerprint, lm.attention, max_new_tokens)
    keys = [[f"{digest(c.to_dicts())}:{k}" for k in range(draws)] for c in conversations]
    lacking = {k: c for c, of in zip(conversations, keys, strict=True) for k in of if k not in store}

    def shown(before: int) -> Progress:
        return lambda done, _: report("divergence: drafts", before + done, len(lacking), {})

    drawn = 0

    def draw(part: Sequence[str]) -> list[Generation]:
        return sample(
            lm,
            [base.prompt_ids(lacking[k]) for k in part],
            part,
            max_new_tokens=max_new_tokens,
            temperature=1.0,
            seed=0,
            refusal_token=teacher.refusal_token,
            progress=shown(drawn),
        )

    for part, made in in_batches(list(lacking), DRAFTS_AT_ONCE, draw):
        store.add({k: list(g.ids) for k, g in zip(part, made, strict=True)})
        drawn += len(part)
    pairs = [(c, store[k]) for c, of in zip(conversations, keys, strict=True) for k in of]
    guard.progress = lambda done, total: report("divergence: guard", done, total, {})
    verdicts = guard.judge([c.answered(teacher.renderer.decode(ids)) for c, ids in pairs])
    alpha = [math.nan if v.p_safe is None else v.p_safe for v in verdicts]
    return [
        _Prompt(c, [store[k] for k in of], alpha[i * draws : (i + 1) * draws])
        for i, (c, of) in enumerate(zip(conversations, keys, strict=True))
    ]


@torch.inference_mode()
def _figures(
    prompt: _Prompt, base_model: ModelSystem, systems: Sequence[ModelSystem], refusal: list[int]
) -> dict[str, dict[str, float]]:
    """Return the three figures of one prompt for every system."""
    graded = [i for i, a in enumerate(prompt.alpha) if not math.isnan(a)]
    if not systems:
        return {}
    if len(graded) < MIN_DRAWS:
        return {s.name: dict.fromkeys(FIGURES, math.nan) for s in systems}
    alpha = np.array([prompt.alpha[i] for i in graded])
    texts = [*(prompt.drafts[i] for i in graded), refusal]
    base = _scored(base_model, prompt.conversation, texts)
    out = {}
    for system in systems:
        lm = system.lm
        said = system.refusal_ids(refusal)
        own = base if system is base_model else _scored(system, prompt.conversation, [*texts[:-1], said])
        ratio = np.array([o.log_prob - b.log_prob for o, b in zip(own[:-1], base[:-1], strict=True)])
        drafts = Drafts(alpha, ratio, [t == refusal for t in texts[:-1]], own[-1].log_prob)
        s = float(log_odds(lm.head(own[-1].states[:1]), said[0])[0])
        rho = 1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, s)))) if system.threshold is None else float(s > system.threshold)
        answers = [_token_tv(lm, b, o) for b, o in zip(base[:-1], own[:-1], strict=True)]
        after = [1.0 - math.exp(value) for value in own[-1].token_log_probs[1:]]
        first = _first_tv(lm, base[-1].states[:1], own[-1].states[:1], said[0], float(drafts.kept.mean()))
        out[system.name] = {
            "decision_divergence": decision_gap(rho, drafts.refusal_probability),
            "sequence_tv": sequence_total_variation(drafts),
            "token_tv": token_total_variation(drafts.kept, first, answers, after),
        }
    return out


def _scored(system: ModelSystem, conversation: Conversation, texts: Sequence[Sequence[int]]) -> list[_Scored]:
    prompt = system.prompt_ids(conversation)

    def score(part: Sequence[Sequence[int]]) -> list[_Scored]:
        with system.running() as lm:
            found = response_states(lm, [prompt] * len(part), part, system.virtual_tokens)
        log_probs = token_figures("log_prob", system.lm.output_head, found.states, found.targets).values
        out = []
        for i in range(len(part)):
            of = found.row == i
            values = log_probs[of].tolist()
            out.append(_Scored(found.states[of], found.targets[of], math.fsum(values), values))
        return out

    return [scored for _, made in in_batches(texts, len(texts), score) for scored in made]


def _token_tv(lm: LanguageModel, base: _Scored, own: _Scored) -> list[float]:
    """Return the total variation of next tokens along a draft, from its second token on."""
    if len(base.targets) < 2:
        return []
    found = token_figures("total_variation", lm.output_head, own.states[1:], own.targets[1:], base.states[1:])
    values: list[float] = found.values.clamp(0, 1).tolist()
    return values


def _first_tv(lm: LanguageModel, base: Tensor, own: Tensor, refusal_token: int, alpha: float) -> float:
    """Return the total variation at the first token: there the guarded system's is a mixture of an answer's and the refusal's."""
    student = torch.softmax(lm.head(own), -1)[0]
    teacher = alpha * torch.softmax(lm.head(base), -1)[0]
    teacher = F.pad(teacher, (0, len(student) - len(teacher)))  # a token that the base model lacks
    teacher[refusal_token] += 1.0 - alpha
    return float((teacher - student).abs().sum() / 2)
