"""Reports: an evaluation's summary as one HTML page, as Markdown and as a table in the terminal.

One idea: all three are views of `EvaluationSummary` and hold no figure that is not in it (the page adds the training
log); the cost tables are views of `CostReport` in the same way. Harmful samples are redacted unless the caller asks. To add a
form, write one file with one `render_*` function.
Must not import models, guards, systems or training: a report can be made again from a run directory alone.
"""

from softguard.reports.costs import cost_csv, cost_tables, paper_tables
from softguard.reports.html import render_html, write_plots, write_report
from softguard.reports.markdown import render_markdown
from softguard.reports.plots import cost_plot
from softguard.reports.runtime_costs import runtime_markdown, runtime_plot, runtime_tables
from softguard.reports.study import study_plots, study_table, write_study_page
from softguard.reports.terminal import terminal_table

__all__ = [
    "cost_csv",
    "cost_plot",
    "cost_tables",
    "paper_tables",
    "render_html",
    "render_markdown",
    "runtime_markdown",
    "runtime_plot",
    "runtime_tables",
    "study_plots",
    "study_table",
    "terminal_table",
    "write_plots",
    "write_report",
    "write_study_page",
]
