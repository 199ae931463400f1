"""Cost tables in the terminal, and as CSV: views of `CostReport` and `PaperComparison` that hold no figure of their own."""

import csv
import io
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from softguard.costs import CostReport, PaperComparison, SystemCosts
from softguard.costs.results import REFERENCE_CONTEXT

ABSENT = "–"


def cost_tables(report: CostReport) -> list[Table]:
    """Return the tables in order: operations by context, by part, what is held, and times where they were measured."""
    tables = [_by_context(report), _by_part(report), _held(report)]
    return [*tables, _times(report)] if report.timings else tables


def paper_tables(found: PaperComparison) -> list[Table]:
    """Return table 5 beside ours, and the conventions by their gap to the paper's base figures."""
    rows = found.rows
    table = Table(title=_title(f"Paper, table 5: GFLOPs per token at context {REFERENCE_CONTEXT}"), title_justify="left")
    table.add_column("")
    for r in rows:
        table.add_column(r.label, justify="right")
    for name in ("base", "guarded"):
        table.add_row(f"{name}: paper", *(f"{r.paper[name]:.2f}" for r in rows))
        table.add_row("  ours, no head", *(f"{r.ours_without_head[name]:.2f}" for r in rows))
        table.add_row("  ours, with head", *(f"{r.ours_with_head[name]:.2f}" for r in rows))
    table.add_row("student: paper", *(f"{r.paper_student_ratio - 1:+.1%}" for r in rows))
    for name in rows[0].our_student_ratios:
        table.add_row(f"  {name}", *(f"{r.our_student_ratios[name] - 1:+.1%}" for r in rows))
    table.add_row("memory: guard adds", *(f"{r.memory_guard:+.0%}" for r in rows))
    table.add_row("  prompt adds", *(f"{r.memory_prompt:+.2%}" for r in rows))
    gaps = Table(title=_title("Conventions, ours over the paper's base figures"), title_justify="left")
    gaps.add_column("counted")
    for r in rows:
        gaps.add_column(r.label, justify="right")
    for g in found.conventions:
        gaps.add_row(g.convention, *(f"{g.gaps[r.model]:+.1%}" for r in rows))
    return [table, gaps]


def cost_csv(report: CostReport) -> str:
    """Return one line for each system and context: operations per token by part, and what is held."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["system", "context", "body", "attention", "head", "total", "parameters", "weights_bytes", "cache_bytes"])
    for s in report.systems:
        for f in s.flops:
            held = (s.parameters, s.weights_bytes, s.cache_bytes[f.context])
            writer.writerow([s.system, f.context, f.body, f.attention, f.head, f.total, *held])
    return out.getvalue()


def _by_context(report: CostReport) -> Table:
    unit, scale = _unit(report)
    contexts = [f.context for f in report.systems[0].flops]
    table = Table(title=_title(f"{report.model}: {unit} per token by context, with the head"), title_justify="left")
    table.add_column("system")
    for c in contexts:
        table.add_column(str(c), justify="right")
    for s in report.systems:
        table.add_row(s.label, *(_number(f.total / scale) for f in s.flops))
    return table


def _by_part(report: CostReport) -> Table:
    unit, scale = _unit(report)
    table = Table(title=_title(f"{unit} per token at context {REFERENCE_CONTEXT}"), title_justify="left")
    table.add_column("system")
    for part in ("body", "attention", "head", "all", "over base"):
        table.add_column(part, justify="right")
    base = report.system("base").at(REFERENCE_CONTEXT)
    for s in report.systems:
        f = s.at(REFERENCE_CONTEXT)
        if f is None or base is None:
            table.add_row(s.label, *[ABSENT] * 5)
            continue
        parts = (f.body, f.attention, f.head, f.total)
        table.add_row(s.label, *(_number(x / scale) for x in parts), f"{f.total / base.total - 1:+.1%}")
    return table


def _held(report: CostReport) -> Table:
    """Return what is held; keeping keys and values between requests changes when they are made, not how many there are."""
    contexts = [c for c in (REFERENCE_CONTEXT, 8192) if c in report.systems[0].cache_bytes]
    at = " and ".join(map(str, contexts))
    title = f"Held, in MiB: weights of {report.weight_bits:g} bits, keys and values at {at} tokens"
    table = Table(title=_title(title), title_justify="left")
    table.add_column("system")
    for head in ("parameters", "weights", *map(str, contexts), "over base"):
        table.add_column(head, justify="right", no_wrap=True)
    base = report.system("base")
    for s in report.systems:
        if s.system.endswith("_cached"):
            continue
        parameters = f"{s.parameters:,}" if s is base else f"+{s.parameters - base.parameters:,}"
        cache = (f"{s.cache_bytes[c] / 2**20:,.1f}" for c in contexts)
        more = f"{_bytes(s, contexts) / _bytes(base, contexts) - 1:+.1%}"
        table.add_row(s.label.split(", recomputed")[0], parameters, f"{s.weights_bytes / 2**20:,.1f}", *cache, more)
    return table


def _times(report: CostReport) -> Table:
    table = Table(title=_title(f"Timed here: {report.provenance.get('processor', '')}".rstrip(": ")), title_justify="left")
    table.add_column("system")
    for head in ("first token ms", "over base", "tokens/s", "answer time over base"):
        table.add_column(head, justify="right")
    for t in report.timings:
        ratios = (f"{t.first_token_ratio:.2f}x", f"{t.tokens_per_second:.1f}", f"{t.answer_ratio:.2f}x")
        table.add_row(t.label, f"{t.first_token_ms:,.0f}", *ratios)
    return table


def _bytes(system: SystemCosts, contexts: Sequence[int]) -> int:
    """Return weights and the keys and values of the first context."""
    return system.weights_bytes + (system.cache_bytes[contexts[0]] if contexts else 0)


def _unit(report: CostReport) -> tuple[str, float]:
    largest = max(f.total for s in report.systems for f in s.flops)
    return ("GFLOPs", 1e9) if largest >= 2e9 else ("MFLOPs", 1e6)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _title(text: str) -> Text:
    return Text(text)
