"""Costs in a runtime as tables (terminal, Markdown) and as one plot: views of `RuntimeCosts` that hold no figure of their own."""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from softguard.core.files import write_atomically
from softguard.costs.runtime_results import RuntimeCell, RuntimeCosts, SafeAnswer, Spread
from softguard.errors import ConfigError
from softguard.reports.drawing import DASHES, MARKERS

ABSENT = "–"
_HEADS = ("system", "first ms", "ratio", "tokens/s", "ratio", "MiB")
Rows = list[list[str]]
Times = Callable[[Spread], str]


def runtime_tables(found: RuntimeCosts) -> list[Table]:
    """Return the tables for a terminal, medians alone: one for each number of requests and prompt length, one of answers."""
    tables = [_table(_cell_title(*key), _HEADS, _cell_rows(found, *key, _median)) for key in _keys(found)]
    return [*tables, _table(_answer_title(found), _answer_heads(found), _answer_rows(found, _median))]


def runtime_markdown(found: RuntimeCosts) -> str:
    """Return one table of all cells, one of answers, and what was measured on what."""
    heads = ("at once", "prompt tokens", *_HEADS, "model files MB")
    sizes = {found.label(s.system): f"{s.model_bytes / 1e6:,.1f}" for s in found.systems}
    rows = [[str(n), str(k), *row, sizes[row[0]]] for n, k in _keys(found) for row in _cell_rows(found, n, k, _interval)]
    provenance = "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in found.provenance.items() if name != "sha256")
    blocks = [
        f"# Costs in {found.runtime}: {found.model}",
        found.measured,
        f"In brackets: intervals by order statistics, which hold the median with probability {found.interval_coverage:.0%}.",
        "\n".join(_pipes(heads, rows)),
        f"## {_answer_title(found)}",
        "\n".join(_pipes(_answer_heads(found), _answer_rows(found, _interval))),
        "\n".join(f"- {limit}" for limit in found.limits),
        f"Measured on: {provenance}.",
    ]
    return "\n\n".join(blocks) + "\n"


def runtime_plot(found: RuntimeCosts, path: Path) -> None:
    """Write time to the first token by prompt length and time to a complete safe answer by its length, one line for each system.

    Raises:
        ConfigError: matplotlib knows no format of the file's ending.
    """
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    kind, known = path.suffix.removeprefix("."), sorted(figure.canvas.get_supported_filetypes())
    if kind not in known:
        raise ConfigError(f"a file that ends in one of {', '.join(known)}", repr(path.name), "name it PLOT.png or PLOT.svg")
    left, right = figure.subplots(1, 2)
    least = min(c.parallel for c in found.cells)
    for i, system in enumerate(s.system for s in found.systems):
        cells = [c for c in found.cells if c.system == system and c.parallel == least]
        _line(left, i, [c.prompt_tokens for c in cells], [c.first_token_ms for c in cells], found.label(system))
        shown = [a for a in found.answers if a.system == system and a.request == "benign"]
        _line(right, i, [a.answer_tokens for a in shown], [a.answer_ms for a in shown], None)
    left.set(xlabel="tokens of the prompt", ylabel="ms to the first token that is shown", xscale="log", yscale="log")
    right.set(xlabel="tokens of the answer", ylabel="ms to a complete safe answer", ylim=(0, None))
    for axes, ticks in ((left, {c.prompt_tokens for c in found.cells}), (right, {a.answer_tokens for a in found.answers})):
        axes.set_xticks(sorted(ticks), [str(t) for t in sorted(ticks)])
        axes.minorticks_off()
    figure.suptitle(f"{found.model} in {found.runtime}, {found.provenance.get('threads', '?')} threads")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    write_atomically(path, lambda partial: figure.savefig(partial, format=kind, dpi=150))


def _line(axes: Axes, i: int, x: Sequence[int], y: Sequence[Spread], label: str | None) -> None:
    bars = [[s.median - s.low for s in y], [s.high - s.median for s in y]]
    dash, mark = DASHES[i % len(DASHES)], MARKERS[i % len(MARKERS)]
    axes.errorbar(x, [s.median for s in y], yerr=bars, color=f"C{i}", label=label, capsize=2, linestyle=dash, marker=mark)


def _keys(found: RuntimeCosts) -> list[tuple[int, int]]:
    return list(dict.fromkeys((c.parallel, c.prompt_tokens) for c in found.cells))


def _cell_rows(found: RuntimeCosts, parallel: int, prompt_tokens: int, times: Times) -> Rows:
    return [_cell_row(found, c, times) for c in found.cells if (c.parallel, c.prompt_tokens) == (parallel, prompt_tokens)]


def _cell_row(found: RuntimeCosts, c: RuntimeCell, times: Times) -> list[str]:
    memory = f"{c.peak_memory_bytes / 2**20:,.0f}" if c.peak_memory_bytes else ABSENT
    first, rate = times(c.first_token_ratio), times(c.tokens_per_second_ratio)
    speed = f"{c.tokens_per_second.median:.1f}"
    return [found.label(c.system), f"{c.first_token_ms.median:,.1f}", first, speed, rate, memory]


def _answer_heads(found: RuntimeCosts) -> tuple[str, ...]:
    return ("system", "request", *(f"{n} tokens" for n in _lengths(found)))


def _answer_rows(found: RuntimeCosts, times: Times) -> Rows:
    keys = dict.fromkeys((a.system, a.request) for a in found.answers)
    by = {(a.system, a.request, a.answer_tokens): a for a in found.answers}
    return [[found.label(s), request, *(_answer(by[s, request, n], times) for n in _lengths(found))] for s, request in keys]


def _answer(a: SafeAnswer, times: Times) -> str:
    """Return the time, and how many times as fast as the guarded system that is."""
    return f"{a.answer_ms.median:,.0f} ms" + ("" if a.system == "guarded" else f", {times(a.speedup)}")


def _lengths(found: RuntimeCosts) -> list[int]:
    return sorted({a.answer_tokens for a in found.answers})


def _cell_title(parallel: int, prompt_tokens: int) -> str:
    return f"{parallel} at once, prompts of {prompt_tokens} tokens"


def _answer_title(found: RuntimeCosts) -> str:
    prompt = found.settings["answer_prompt_tokens"]
    return f"Time to a complete safe answer, prompts of {prompt} tokens; how many times as fast as the guarded system"


def _median(s: Spread) -> str:
    return f"{s.median:.2f}x"


def _interval(s: Spread) -> str:
    return f"{s.median:.2f}x [{s.low:.2f}, {s.high:.2f}]"


def _table(title: str, heads: Sequence[str], rows: Rows) -> Table:
    table = Table(title=Text(title), title_justify="left")
    for i, head in enumerate(heads):
        table.add_column(head, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _pipes(heads: Sequence[str], rows: Rows) -> list[str]:
    return [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *(f"| {' | '.join(row)} |" for row in rows)]
