"""The table of an evaluation in the terminal: a metric a row, a system a column."""

from rich.table import Table
from rich.text import Text

from softguard.evaluation.results import EvaluationSummary
from softguard.reports.wording import cell, info


def terminal_table(summary: EvaluationSummary) -> Table:
    """Return the table: each value with its 95 % interval below it, and below that what is ungraded.

    Metrics stand in rows so that four systems fit into 80 columns. Text is never read as markup.
    """
    table = Table(title=Text(f"Evaluation: {summary.suite}"), title_justify="left", caption="with 95 % intervals")
    table.add_column("metric")
    for system in summary.systems:
        table.add_column(Text(system.title), justify="right")
    for name in summary.metric_names():
        row = [Text(info(name, summary).label)]
        for system in summary.systems:
            shown = cell(system.metrics.get(name))
            text = Text(shown.value)
            for extra in (shown.interval, shown.remark if name in system.metrics else ""):
                if extra:
                    text.append(f"\n{extra}", style="dim")
            row.append(text)
        table.add_row(*row)
    return table
