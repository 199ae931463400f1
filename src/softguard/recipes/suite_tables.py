"""From answers and judgements to the tables of a suite: rates with intervals, tests against the student, agreement of judges.

Pure functions of what was said and judged: no model is asked here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from softguard.core import Reply
from softguard.data import PromptRow
from softguard.evaluation import metrics
from softguard.evaluation.agreement import judge_agreement
from softguard.evaluation.comparisons import compare, power_sentence
from softguard.evaluation.judgement import Judgement
from softguard.evaluation.results import ANY_WRAPPER, CategoryRate, Difference, JudgeAgreement, MetricValue, metric_name
from softguard.evaluation.scores import HARM, attack_score, harm_score, kind_score, safe_score, worst_case
from softguard.evaluation.statistics import Clusters
from softguard.evaluation.suites import Suite
from softguard.evaluation.wrappers import PLAIN


@dataclass(frozen=True)
class Asked:
    """What one system said to every prompt of a suite in one form, and what judges say of the answers to harmful ones.

    Attributes:
        replies: of all prompts for plain requests, of the harmful ones for wrapped ones.
        judgements: by judge, of the harmful prompts, in their order.
    """

    replies: Sequence[Reply]
    judgements: Mapping[str, Sequence[Judgement]]


@dataclass(frozen=True)
class Measured:
    """All that was asked of one suite: `by[system][wrapper]`, plain requests under `PLAIN`.

    Judges are in order, the first is the headline's; `training_judges` are those that are the training guard, or ask it.
    """

    suite: Suite
    rows: Sequence[PromptRow]
    by: Mapping[str, Mapping[str, Asked]]
    judges: Sequence[str]
    training_judges: Sequence[str] = ()

    @property
    def harmful(self) -> list[PromptRow]:
        """The prompts whose answers are judged, and that wrappers wrap."""
        return [r for r in self.rows if r.label == "harmful"]

    @property
    def led_by_the_training_guard(self) -> bool:
        """Whether answers were judged, and the headline is what the guard that taught the student says of them."""
        return bool(self.harmful) and self.judges[0] in self.training_judges

    def read_in_part(self) -> dict[str, int]:
        """Return by judge how many answers it read the beginning of only, where there are any."""
        of = {j: [x for by in self.by.values() for asked in by.values() for x in asked.judgements[j]] for j in self.judges}
        return {judge: n for judge, found in of.items() if (n := sum(j.in_part for j in found))} if self.harmful else {}

    def clusters(self, rows: Sequence[PromptRow]) -> Clusters:
        """Return the family of each row; None where every prompt is its own."""
        return [self.suite.family(r) for r in rows] if self.suite.has_families else None

    def replies(self, system: str, *labels: str) -> list[Reply]:
        """Return what a system said to plain prompts of these labels."""
        return [x for r, x in zip(self.rows, self.by[system][PLAIN].replies, strict=True) if r.label in labels]

    def attack_scores(self, system: str, wrapper: str, judge: str) -> list[float]:
        """Return the attack score of every harmful prompt."""
        asked = self.by[system][wrapper]
        replies = self.replies(system, "harmful") if wrapper == PLAIN else asked.replies
        return [attack_score(r, j) for r, j in zip(replies, asked.judgements[judge], strict=True)]

    def worst_scores(self, system: str, judge: str) -> list[float]:
        """Return for every harmful prompt the probability that some way of asking succeeds."""
        return worst_case([self.attack_scores(system, w, judge) for w in self.by[system]])


def rates(measured: Measured, system: str) -> dict[str, MetricValue]:
    """Return the rates of one system by name."""
    harmful = measured.harmful
    out: dict[str, MetricValue] = {}
    if harmful:
        clusters = measured.clusters(harmful)
        for judge in measured.judges:
            shown = "" if judge == measured.judges[0] else judge
            for wrapper in measured.by[system]:
                name = metric_name("attack_success_rate", shown, "" if wrapper == PLAIN else wrapper)
                out[name] = metrics.rate_of(measured.attack_scores(system, wrapper, judge), 0, clusters)
            if len(measured.by[system]) > 1:
                worst = metric_name("attack_success_rate", shown, ANY_WRAPPER)
                out[worst] = metrics.rate_of(measured.worst_scores(system, judge), 0, clusters)
            judged = measured.by[system][PLAIN].judgements[judge]
            pairs = list(zip(measured.replies(system, "harmful"), judged, strict=True))
            out[metric_name("harm_score", shown)] = metrics.rate_of([harm_score(r, j) for r, j in pairs], 0, clusters)
            out[metric_name("sgs", shown)] = metrics.rate_of([safe_score(r, j) for r, j in pairs], 0, clusters)
    out |= _refusals(measured, system)
    everything = [x for asked in measured.by[system].values() for x in asked.replies]
    out["truncated_rate"] = metrics.rate_of([math.nan if r.ungraded else float(r.truncated) for r in everything])
    return out


def _refusals(measured: Measured, system: str) -> dict[str, MetricValue]:
    """Return how often a system declines plain prompts, by what they are, in full and in part."""
    out = {}
    names = {"harmful": "refusal_rate", "benign": "over_refusal_rate", "look_alike": "look_alike_refusal_rate"}
    for label, name in names.items():
        rows = [r for r in measured.rows if r.label == label]
        if not rows:
            continue
        replies, clusters = measured.replies(system, label), measured.clusters(rows)
        out[name] = metrics.rate_of([kind_score(r, "full") for r in replies], 0, clusters)
        for kind in ("partial", "compliance"):
            full = metric_name("partial_refusal_rate" if kind == "partial" else "compliance_rate", group=label)
            out[full] = metrics.rate_of([kind_score(r, kind) for r in replies], 0, clusters)  # type: ignore[arg-type]
    sides = {label: [r for r in measured.rows if r.label == label] for label in ("harmful", "look_alike")}
    if all(sides.values()):
        s = {label: [x.refusal_log_odds for x in measured.replies(system, label)] for label in sides}
        families = [measured.clusters(rows) for rows in sides.values()]
        out["refusal_auc"] = metrics.refusal_auc(s["harmful"], s["look_alike"], 0, *families)
    return out


def differences(measured: Measured, subject: str) -> list[Difference]:
    """Return the subject's rates minus those of every other system, each with a paired test."""
    out = []
    for metric, (rows, scores) in _compared(measured).items():
        clusters = measured.clusters(rows)
        for name in (n for n in scores if n != subject):
            try:
                found = compare(scores[subject], scores[name], 0, clusters)
            except ValueError:  # nothing that both have scored
                continue
            value = metrics.mean_value(found.difference, "points")
            out.append(
                Difference(metric=metric, system=subject, reference=name, value=value, p_value=found.p_value, test=found.test)
            )
    return out


def categories(measured: Measured) -> list[CategoryRate]:
    """Return the rates of plain prompts by category (the suite's topic), where there are at least two."""
    out = []
    for metric, (rows, scores) in _compared(measured).items():
        if metric.partition(":")[2]:  # under attack the prompts are the same
            continue
        names = list(dict.fromkeys(r.harm_category or r.topic for r in rows))
        if len(names) < 2 or "" in names:
            continue
        for name in names:
            inside = [i for i, r in enumerate(rows) if (r.harm_category or r.topic) == name]
            out += [
                CategoryRate(category=name, metric=metric, system=s, value=metrics.rate_of([of[i] for i in inside]))
                for s, of in scores.items()
            ]
    return out


def _compared(measured: Measured) -> dict[str, tuple[list[PromptRow], dict[str, list[float]]]]:
    """Return for each metric that is compared its prompts, and the scores of every system."""
    harmful, judge = measured.harmful, measured.judges[0]
    out: dict[str, tuple[list[PromptRow], dict[str, list[float]]]] = {}
    if harmful:
        out["attack_success_rate"] = (harmful, {s: measured.attack_scores(s, PLAIN, judge) for s in measured.by})
        if any(len(asked) > 1 for asked in measured.by.values()):
            worst = metric_name("attack_success_rate", wrapper=ANY_WRAPPER)
            out[worst] = (harmful, {s: measured.worst_scores(s, judge) for s in measured.by})
    for label, name in (("benign", "over_refusal_rate"), ("look_alike", "look_alike_refusal_rate")):
        rows = [r for r in measured.rows if r.label == label]
        if rows:
            out[name] = (rows, {s: [kind_score(r, "full") for r in measured.replies(s, label)] for s in measured.by})
    return out


def agreement(measured: Measured) -> list[JudgeAgreement]:
    """Return how far the judges agree on all answers to harmful prompts, of all systems and wrappers, clustered by prompt."""
    if len(measured.judges) < 2 or not measured.harmful:
        return []
    said: dict[str, list[float]] = {name: [] for name in measured.judges}
    clusters: list[str] = []
    for by_wrapper in measured.by.values():
        for asked in by_wrapper.values():
            for name in measured.judges:
                said[name] += [float("nan") if j.harm is None else float(j.harm >= HARM) for j in asked.judgements[name]]
            clusters += [r.id for r in measured.harmful]
    return judge_agreement(said, 0, clusters)


def power_notes(measured: Measured, subject: str, reference: str) -> list[str]:
    """Return for each metric that is compared a sentence of what difference the suite's prompts can show."""
    flagged = "answers that the training guard flags" if measured.led_by_the_training_guard else "attack success"
    words = {
        "attack_success_rate": flagged,
        metric_name("attack_success_rate", wrapper=ANY_WRAPPER): f"{flagged} in some way of asking",
        "over_refusal_rate": "over-refusal",
        "look_alike_refusal_rate": "refusal on look-alikes",
    }
    notes = [
        power_sentence(scores[subject], scores[reference], words[metric], subject, reference, measured.clusters(rows))
        for metric, (rows, scores) in _compared(measured).items()
        if subject in scores and reference in scores
    ]
    return [note for note in notes if note]
