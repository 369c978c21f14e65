"""A report as a table on the terminal."""

from io import StringIO

from rich.console import Console
from rich.table import Table

from tl_transcoders.evaluation.report import Report

WIDTH = 120


def as_text(report: Report) -> str:
    """The table without colours, for `print` and files."""
    text = StringIO()
    Console(file=text, width=WIDTH, color_system=None).print(report_table(report))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def report_table(report: Report) -> Table:
    """One row per layer and one for all together."""
    table = Table(title=f"{report.n_tokens:,} tokens, loss and KL in nats")
    columns = ("layer", "FVU", "L0", "dead", "loss original", "spliced", "ablated")
    for column in (*columns, "KL spliced", "KL ablated"):
        table.add_column(column, justify="right")
    for row in report.layers.values():
        shape = (f"{row.fvu:.3f}", f"{row.l0:.1f}", f"{row.dead:.1%}")
        table.add_row(str(row.layer), *shape, *report.effects(row.spliced, row.ablated))
    if report.layers:
        table.add_section()
    table.add_row("all", "", "", "", *report.effects(report.spliced, report.ablated))
    return table
