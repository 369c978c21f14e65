"""A tap report as a table on the terminal."""

from rich.table import Table

from tl_transcoders.splice.tap_report import TapReport, row_cells


def tap_table(report: TapReport) -> Table:
    """One row per layer."""
    table = Table(title=report.title)
    for column, right in (
        ("layer", True),
        ("stated tap", False),
        ("FVU", True),
        ("verdict", False),
        ("best tap", False),
        ("FVU", True),
    ):
        table.add_column(column, justify="right" if right else "left")
    for row in report.layers:
        table.add_row(*row_cells(row))
    return table
