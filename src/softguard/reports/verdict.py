"""The verdict: three sentences of what was gained, what it costs the user, and what it costs the device.

One idea: a sentence claims no more than the figures do. Where a paired difference has 0 in its interval, or where there
is no paired one and the two intervals overlap, the other system's figure is followed by "not told apart". What was not measured
is said to be so.
"""

from collections.abc import Sequence

from softguard.evaluation.results import ANY_WRAPPER, EvaluationSummary, MetricValue, SystemResult, metric_name
from softguard.reports.wording import cell, info, number

NOT_TOLD_APART = "not told apart"
_STUDENTS = "student:"
"""How `compare` names the students of several runs."""


def verdict(summary: EvaluationSummary, suites: Sequence[tuple[str, EvaluationSummary]] = ()) -> tuple[str, str, str]:
    """Return the sentences. The subject is the student, or the last system where there is none; of several, all of them.

    Args:
        summary: of our own test split.
        suites: those measured beside it, by folder; of their attack success the worst is said, with who judged it.
    """
    if not summary.systems:
        return ("No system was evaluated.", "Nothing is known of over-refusal.", "Nothing is known of the cost.")
    students = [s for s in summary.systems if s.system.startswith(_STUDENTS)]
    if len(students) > 1:
        first, second, third = _compared(students, alike=not summary.limits)
        return first.removesuffix(".") + _attacked([s.system for s in students], suites) + ".", second, third
    subject = summary.system("student") or (students[0] if students else summary.systems[-1])
    others = [s for s in (summary.system("base"), summary.system("guarded")) if s is not None and s is not subject]
    gain = _gain(summary, subject, others).removesuffix(".") + _attacked([subject.system], suites) + "."
    return gain, _price(summary, subject, others), _cost(subject, others)


def told_apart(summary: EvaluationSummary, subject: SystemResult, other: SystemResult, name: str) -> bool | None:
    """Return whether a metric of two systems differs beyond chance; None where nothing tells.

    A paired difference decides, by its corrected p-value where it has one, else by its interval. Without one, apart means that
    the two 95 % intervals do not overlap, which is stricter than a test at 5 %: never too much is claimed.
    """
    for d in summary.differences:
        if (d.metric, d.system, d.reference) == (name, subject.system, other.system) and d.value.value is not None:
            if d.p_value is not None:
                return (d.p_value if d.p_holm is None else d.p_holm) < 0.05
            if d.value.low is not None and d.value.high is not None:
                return not d.value.low <= 0 <= d.value.high
    return _disjoint(subject.metrics.get(name), other.metrics.get(name))


def _disjoint(a: MetricValue | None, b: MetricValue | None) -> bool | None:
    if a is None or b is None or a.low is None or a.high is None or b.low is None or b.high is None:
        return None
    return a.high < b.low or b.high < a.low


def _gain(summary: EvaluationSummary, subject: SystemResult, others: Sequence[SystemResult]) -> str:
    refusal = _phrase(subject, "refusal_rate")
    if refusal is None:
        return f"How often the {subject.title} refuses harmful prompts was not measured."
    n = subject.metrics["refusal_rate"].n
    return f"Of {n} harmful prompts the {subject.title} refuses {refusal}{_against(summary, subject, others, 'refusal_rate')}."


def _attacked(subjects: Sequence[str], suites: Sequence[tuple[str, EvaluationSummary]]) -> str:
    """Return the highest attack success of the subjects over the suites as the end of a sentence, by any way of asking."""
    names = (metric_name("attack_success_rate", wrapper=ANY_WRAPPER), "attack_success_rate")
    known = [
        (value.value, suite, system, name)
        for _, suite in suites
        for system in suite.systems
        if system.system in subjects
        if (name := next((n for n in names if n in system.metrics), None)) is not None
        if (value := system.metrics[name]).value is not None
    ]
    if not known:
        return ""
    _, suite, system, name = max(known, key=lambda k: k[0] or 0.0)
    base = suite.system("base")
    what = info(name, suite).label
    shown = f"; at worst, on {suite.suite}, {what[0].lower()}{what[1:]} is {_phrase(system, name)} for the {system.title}"
    return shown + (_against(suite, system, [base], name) if base else "")


def _price(summary: EvaluationSummary, subject: SystemResult, others: Sequence[SystemResult]) -> str:
    parts = []
    if over := _phrase(subject, "over_refusal_rate"):
        parts.append(f"refuses {over} of benign prompts{_against(summary, subject, others, 'over_refusal_rate')}")
    if auc := _phrase(subject, "refusal_auc"):
        against = _against(summary, subject, others, "refusal_auc")
        parts.append(f"tells harmful prompts from their look-alikes with an AUC of {auc}{against}")
    if drift := _phrase(subject, "benign_drift"):
        parts.append(f"drifts from the base model's benign answers by {drift} nats a token")
    return f"It {_join(parts, '; ')}." if parts else "What it costs on benign prompts was not measured."


def _cost(subject: SystemResult, others: Sequence[SystemResult]) -> str:
    own = _costs(subject)
    if not own:
        return "What it costs on the device was not measured."
    guarded = next((s for s in others if s.system == "guarded"), None)
    rival = _costs(guarded) if guarded else ""
    return f"It adds {own}" + (f", where the {guarded.title} adds {rival}." if guarded and rival else ".")


def _compared(students: Sequence[SystemResult], alike: bool) -> tuple[str, str, str]:
    """Return which of several students leads in AUC, drift and compute, and which others its interval does not part it from.

    Runs that were not measured alike have that said in `compare`'s limits, and here.
    """
    first = _leader(students, "refusal_auc", "tells harmful prompts from look-alikes best, with an AUC of", higher=True)
    return (
        first if alike else f"{first.removesuffix('.')}; mind that not all were measured alike (see the limits).",
        _leader(students, "benign_drift", "keeps closest to the base model's benign answers, with a drift in nats a token of"),
        _leader(students, "extra_compute", "costs least, with a compute per token beyond the base model's of"),
    )


def _leader(students: Sequence[SystemResult], name: str, what: str, higher: bool = False) -> str:
    known = {s.system: v for s in students if (m := s.metrics.get(name)) is not None and (v := m.value) is not None}
    if not known:
        return f"Which of the {len(students)} students {what.partition(',')[0]} was not measured."
    value = (max if higher else min)(known.values())
    first = [s for s in students if known.get(s.system) == value]
    if len(first) > 1:
        who = f"{_join([s.title for s in first])} share the best figure of the {len(students)} students"
        return f"{who}: each {what} {_phrase(first[0], name)}."
    best = first[0]
    near = [s.title for s in students if s is not best and _disjoint(best.metrics.get(name), s.metrics.get(name)) is False]
    doubt = f"; {_join(near)} {'is' if len(near) == 1 else 'are'} {NOT_TOLD_APART} from it: the intervals overlap" if near else ""
    return f"Of {len(students)} students {best.title} {what} {_phrase(best, name)}{doubt}."


def _costs(system: SystemResult) -> str:
    forms = {"added_parameters": "{} parameters", "added_memory_mib": "{} of memory", "extra_compute": "{} compute per token"}
    shown = {name: _plain(system, name) for name in forms}
    return _join([forms[name].format(value.removeprefix("+")) for name, value in shown.items() if value is not None])


def _plain(system: SystemResult, name: str) -> str | None:
    metric = system.metrics.get(name)
    return None if metric is None or metric.value is None else number(metric.value, metric.unit)


def _phrase(system: SystemResult, name: str) -> str | None:
    """Return a value with its interval in brackets, None where there is no headline."""
    if (value := _plain(system, name)) is None:
        return None
    interval = cell(system.metrics[name]).interval
    return f"{value} ({interval})" if interval else value


def _against(summary: EvaluationSummary, subject: SystemResult, others: Sequence[SystemResult], name: str) -> str:
    known = []
    for other in others:
        if (value := _plain(other, name)) is not None:
            apart = told_apart(summary, subject, other, name)
            known.append(f"{value} for the {other.title}" + (f" ({NOT_TOLD_APART})" if apart is False else ""))
    return f", against {_join(known)}" if known else ""


def _join(parts: Sequence[str], separator: str = ", ") -> str:
    """Return parts as a list in words; with a separator of its own where parts have commas inside."""
    if len(parts) < 2:
        return parts[0] if parts else ""
    return f"{separator.join(parts[:-1])}{separator if separator != ', ' else ' '}and {parts[-1]}"
