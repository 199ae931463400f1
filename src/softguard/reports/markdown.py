"""The report as Markdown, for pull requests and model cards."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from softguard.evaluation.results import EvaluationSummary
from softguard.reports.wording import cell, direction, info, shown_samples, verdict

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~!$&@])")


def render_markdown(summary: EvaluationSummary, show_harmful: bool = False) -> str:
    """Return the report: verdict, table, definitions, samples, provenance, limits.

    Text from models and files cannot break out: in tables it is escaped, in samples fenced.
    """
    blocks = [f"# Evaluation: {_plain(summary.suite)}", _plain(" ".join(verdict(summary))), _table(summary)]
    names = summary.metric_names()
    if names:
        blocks.append("\n".join(f"- **{_plain(info(n).label)}**: {_plain(info(n).definition)}" for n in names))
    if summary.differences:
        lines = ["## Differences, paired by prompt", "", "| metric | system | minus | difference (95 %) |", "|---|---|---|---|"]
        for d in summary.differences:
            shown = cell(d.value)
            words = (info(d.metric).label, summary.title(d.system), summary.title(d.reference))
            lines.append("| " + " | ".join(_plain(w) for w in (*words, f"{shown.value} ({shown.interval})")) + " |")
        blocks.append("\n".join(lines))
    for i, sample in enumerate(shown_samples(summary, show_harmful), start=1):
        blocks += [f"## Sample {i}: {_plain(sample.label.replace('_', ' '))}", "Prompt:", _fenced(sample.prompt)]
        for name, answer in sample.answers.items():
            blocks += [f"{_plain(summary.title(name))}:", _fenced(answer)]
    if summary.provenance:
        rows = [f"| {_plain(key)} | {_plain(value)} |" for key, value in flat(summary.provenance)]
        blocks += ["## Provenance", "\n".join(["| what | value |", "|---|---|", *rows])]
    if summary.limits:
        blocks += ["## Limits", "\n".join(f"- {_plain(limit)}" for limit in summary.limits)]
    return "\n\n".join(blocks) + "\n"


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
    lines = ["| system | " + " | ".join(_plain(_header(n)) for n in names) + " |", "|---" * (len(names) + 1) + "|"]
    for system in summary.systems:
        cells = []
        for name in names:
            shown = cell(system.metrics.get(name))
            extras = [f"({shown.interval})"] if shown.interval else []
            extras += [shown.remark] if shown.remark and name in system.metrics else []
            cells.append(_plain(" ".join([shown.value, *extras])))
        lines.append(f"| {_plain(system.title)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _header(name: str) -> str:
    return f"{info(name).label} ({direction(name)})" if direction(name) else info(name).label


def _plain(text: str) -> str:
    """Return text as one line in which nothing is markup."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _fenced(text: str) -> str:
    """Return text in a fence that is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
