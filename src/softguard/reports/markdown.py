"""The report as Markdown, for pull requests and model cards."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from softguard.evaluation.results import EvaluationSummary, MetricValue
from softguard.reports.verdict import verdict
from softguard.reports.wording import agreement, cell, difference, direction, info, shown_samples

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~!$&@])")


def render_markdown(
    summary: EvaluationSummary, show_harmful: bool = False, suites: Sequence[tuple[str, EvaluationSummary]] = ()
) -> str:
    """Return the report: verdict, table, definitions, samples, the suites by name, provenance, limits.

    Text from models and files cannot break out: in tables it is escaped, in samples fenced.
    """
    blocks = [f"# Evaluation: {plain(summary.suite)}", plain(" ".join(verdict(summary, suites))), _table(summary)]
    names = summary.metric_names()
    if names:
        blocks.append("\n".join(f"- **{plain(info(n, summary).label)}**: {plain(info(n, summary).definition)}" for n in names))
    blocks += _differences(summary)
    for i, sample in enumerate(shown_samples(summary, show_harmful), start=1):
        blocks += [f"## Sample {i}: {plain(sample.label.replace('_', ' '))}", "Prompt:", _fenced(sample.prompt)]
        for name, answer in sample.answers.items():
            blocks += [f"{plain(summary.title(name))}:", _fenced(answer)]
    for folder, suite in suites:
        blocks += _suite(folder, suite)
    if summary.provenance:
        rows = [f"| {plain(key)} | {plain(value)} |" for key, value in flat(summary.provenance)]
        blocks += ["## Provenance", "\n".join(["| what | value |", "|---|---|", *rows])]
    if summary.limits:
        blocks += ["## Limits", "\n".join(f"- {plain(limit)}" for limit in summary.limits)]
    return "\n\n".join(blocks) + "\n"


def _differences(summary: EvaluationSummary, level: str = "##") -> list[str]:
    if not summary.differences:
        return []
    lines = [f"{level} Differences, paired by prompt", "", "| metric | system | minus | difference (95 %) |", "|---|---|---|---|"]
    for d in summary.differences:
        words = (info(d.metric, summary).label, summary.title(d.system), summary.title(d.reference), difference(d))
        lines.append("| " + " | ".join(plain(w) for w in words) + " |")
    return ["\n".join(lines)]


def _suite(folder: str, suite: EvaluationSummary) -> list[str]:
    """Return the blocks of one suite: a metric a row, since wrappers and judges make many."""
    blocks = [f"## Suite: {plain(suite.suite)}", f"In `evaluations/{folder.replace('`', '')}`.", upright_table(suite)]
    blocks += _differences(suite, "###")
    if suite.agreement:
        rows = [f"| {plain(a.first)} | {plain(a.second)} | {plain(agreement(a))} |" for a in suite.agreement]
        blocks.append("\n".join(["### Agreement of judges", "", "| judge | judge | agreement |", "|---|---|---|", *rows]))
    return [*blocks, "\n".join(f"- {plain(limit)}" for limit in suite.limits)] if suite.limits else blocks


def upright_table(summary: EvaluationSummary) -> str:
    """Return the main table with a row for each metric and a column for each system: narrow pages show it whole."""
    lines = [
        "| metric | " + " | ".join(plain(s.title) for s in summary.systems) + " |",
        "|---" * (len(summary.systems) + 1) + "|",
    ]
    for name in summary.metric_names():
        cells = [plain(_cell_text(system.metrics.get(name))) for system in summary.systems]
        lines.append(f"| {plain(_header(name, summary))} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested values as (dotted name, text), in order."""
    out: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            out += flat(value, f"{name}.")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            out.append((name, ", ".join(str(v) for v in value)))
        else:
            out.append((name, str(value)))
    return out


def _table(summary: EvaluationSummary) -> str:
    names = summary.metric_names()
    lines = ["| system | " + " | ".join(plain(_header(n, summary)) for n in names) + " |", "|---" * (len(names) + 1) + "|"]
    for system in summary.systems:
        cells = [plain(_cell_text(system.metrics.get(name))) for name in names]
        lines.append(f"| {plain(system.title)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell_text(metric: MetricValue | None) -> str:
    shown = cell(metric)
    extras = [f"({shown.interval})"] if shown.interval else []
    extras += [shown.remark] if shown.remark and metric is not None else []
    return " ".join([shown.value, *extras])


def _header(name: str, summary: EvaluationSummary) -> str:
    label = info(name, summary).label
    return f"{label} ({direction(name)})" if direction(name) else label


def plain(text: str) -> str:
    """Return text as one line in which nothing is markup."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _fenced(text: str) -> str:
    """Return text in a fence that is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
