"""Reports: an evaluation's summary as one HTML page, as Markdown and as a table in the terminal.

One idea: all three are views of `EvaluationSummary` and hold no figure that is not in it (the page adds the training
log). Harmful samples are redacted unless the caller asks. To add a form, write one file with one `render_*` function.
Must not import models, guards, systems or training: a report can be made again from a run directory alone.
"""

from softguard.reports.html import render_html, write_report
from softguard.reports.markdown import render_markdown
from softguard.reports.terminal import terminal_table

__all__ = ["render_html", "render_markdown", "terminal_table", "write_report"]
