"""How far a student is from the guarded system, estimated from draws: decisions, whole answers, next tokens.

One idea: every estimator works on one prompt and lies in [0, 1], so that a set of prompts is a mean with an interval and an upper
limit (`upper_limit`). Noise of few draws moves an estimate up on average (Jensen), so that the limit stays one. What is
promised: answers at temperature 1, prompts like these, text as it was cut. What is not: greedy answers, other prompts, what comes
after the cut. Plain numbers in, plain numbers out; which models they come from is `recipes`' business. Imports nothing of ours
but `errors` and `statistics`.

References:
    Alfarra et al. 2026, arXiv 2606.09388, eq. 1-3 and theorem 3.1; Maurer, Pontil 2009, arXiv 0907.3740, theorem 4.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from softguard.errors import DataError
from softguard.evaluation.statistics import Clusters, Estimate, Floats, Interval, Values, family_indices, mean

MIN_DRAWS = 8
"""Fewer drafts of a prompt put the upward bias of the sequence's estimate above what it is to measure."""


@dataclass(frozen=True)
class Drafts:
    """K answers y ~ p(y|x) of the base model at temperature 1 for one prompt, and what guard and student make of them.

    Attributes:
        alpha: K, the guard's p(s=1|x,y).
        log_ratio: K, log q(y|x) - log p(y|x), sums over the same tokens in nats.
        is_refusal: K, whether y is the refusal y_r itself, token by token.
        refusal_log_prob: log q(y_r|x), its turn end included.
    """

    alpha: Floats
    log_ratio: Floats
    is_refusal: Sequence[bool]
    refusal_log_prob: float

    @property
    def kept(self) -> Floats:
        """Alpha of the drafts that are answers: one that is the refusal is a refusal, whatever the guard says."""
        return np.where(np.asarray(self.is_refusal, dtype=bool), 0.0, self.alpha)

    @property
    def refusal_probability(self) -> float:
        """pi_K, the share of refusals that the guarded system is expected to give to this prompt."""
        return float(1.0 - self.kept.mean())


@dataclass(frozen=True)
class Bounded:
    """An estimate over prompts with its bootstrap interval, and the limit that its expectation keeps with `confidence`."""

    estimate: Estimate
    upper_limit: float
    confidence: float


def decision_gap(student: float, teacher: float) -> float:
    """Return |rho - pi| of one prompt: a rate at which both refuse prompts like these differs by at most its mean.

    Args:
        student: the student's probability of refusing: of the refusal's first token, or 0 or 1 where a threshold decides.
        teacher: pi_K of the same prompt.
    """
    return abs(student - teacher)


def sequence_total_variation(drafts: Drafts) -> float:
    """Return the total variation between guarded system and student over whole answers to one prompt, from drafts.

    TV(x) = 1 - E_{y~p}[min(alpha, q(y)/p(y))] - min(pi, q(y_r)), exact for drafts of all answers (paper.md, exact form of eq. 3;
    here a draft that equals y_r counts as a refusal, so that both sums are of disjoint answers). With K draws the last term is
    concave in pi_K, so that the estimate is high rather than low.

    Raises:
        DataError: fewer than `MIN_DRAWS` drafts, or arrays of different lengths.
    """
    if not MIN_DRAWS <= len(drafts.alpha) == len(drafts.log_ratio) == len(drafts.is_refusal):
        found = f"{len(drafts.alpha)}, {len(drafts.log_ratio)} and {len(drafts.is_refusal)}"
        raise DataError(f"at least {MIN_DRAWS} drafts with alpha, log ratio and is_refusal", found, "draw more for each prompt")
    # exp is taken where it cannot overflow: alpha <= 1, so that a ratio above 1 plays no part.
    shared = np.minimum(drafts.kept, np.exp(np.minimum(0.0, drafts.log_ratio)))
    answers = float(np.where(np.asarray(drafts.is_refusal, dtype=bool), 0.0, shared).mean())
    refusal = min(drafts.refusal_probability, math.exp(min(0.0, drafts.refusal_log_prob)))
    return min(1.0, max(0.0, 1.0 - answers - refusal))


def token_total_variation(alpha: Values, first: float, answers: Sequence[Values], refusal: Values) -> float:
    """Return the mean total variation of next tokens along what the guarded system says to one prompt.

    Along a draft y, which it says with probability alpha, and along y_r otherwise: the mean over the text's tokens of the total
    variation between its next-token distribution and the student's, averaged over drafts. At the first token the guarded system's
    distribution is the base model's and the refusal's first token, mixed with the mean alpha; after it the base model's along y
    and a point mass along y_r. That is exact where alpha does not depend on y, and near it where alpha hardly changes once a few
    tokens are said.

    Args:
        alpha: K.
        first: total variation at the first token, the same for all drafts.
        answers: for each draft the total variation at its tokens from the second on.
        refusal: the same along y_r.

    Raises:
        DataError: no draft, or arrays of different lengths.
    """
    weights = np.asarray(alpha, dtype=np.float64)
    if not len(weights) or len(weights) != len(answers):
        raise DataError("an alpha for each draft", f"{len(weights)} for {len(answers)}", "give one of each")
    along = np.array([np.concatenate(([first], np.asarray(a, dtype=np.float64))).mean() for a in answers])
    along_refusal = float(np.concatenate(([first], np.asarray(refusal, dtype=np.float64))).mean())
    return float((weights * along + (1.0 - weights) * along_refusal).mean())


def bounded_mean(values: Values, seed: int, clusters: Clusters = None, confidence: float = 0.95) -> Bounded:
    """Return the mean over prompts of values in [0, 1] with its interval and upper limit.

    Where prompts have families the limit is that of the mean over families, which are independent where their prompts are not.
    """
    array = np.asarray(values, dtype=np.float64)
    keep = ~np.isnan(array)
    labels = None if clusters is None else [c for c, kept in zip(clusters, keep.tolist(), strict=True) if kept]
    estimate = mean(array, seed, clusters, Interval(0.0, 1.0))
    families, k = family_indices(labels, int(keep.sum()))
    by_family = np.bincount(families, weights=array[keep], minlength=k) / np.bincount(families, minlength=k)
    return Bounded(estimate, upper_limit(by_family, confidence), confidence)


def upper_limit(values: Values, confidence: float = 0.95) -> float:
    """Return the empirical Bernstein limit: the mean of independent values in [0, 1] exceeds it with 1 - confidence at most.

    With delta = 1 - confidence, V the sample variance: mean + sqrt(2 V ln(2/delta) / n) + 7 ln(2/delta) / (3 (n - 1)), 1 at most.
    It holds for every n and every distribution, unlike the bootstrap, and is wide for few prompts: 1 for fewer than 2.

    Raises:
        DataError: a value outside [0, 1], or none.

    References:
        Maurer, Pontil 2009, arXiv 0907.3740, theorem 4.
    """
    array = np.asarray(values, dtype=np.float64)
    if not len(array) or np.isnan(array).any() or array.min() < 0 or array.max() > 1:
        raise DataError("values in [0, 1]", "none, NaN or others", "give what was scored")
    n = len(array)
    if n < 2:
        return 1.0
    log_term = math.log(2 / (1 - confidence))
    width = math.sqrt(2 * float(array.var(ddof=1)) * log_term / n) + 7 * log_term / (3 * (n - 1))
    return min(1.0, float(array.mean()) + width)
