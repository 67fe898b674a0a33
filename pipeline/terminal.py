"""Tables on a terminal, laid out by rich: colours, and long names folded, never cut off."""

from __future__ import annotations

import sys

from .tables import Line, Table, plain

__all__ = ["print_table"]

# Laying out a row takes rich 0.2 ms, and nobody reads so many: beyond, lines are plain.
MOST_ROWS = 5000
LEAST_NAME = 16  # columns that names get at least; with less, the terminal breaks plain lines
GAP = 2
_STYLES = {Line.TENSOR: "", Line.BROKEN: "red", Line.LAYER: "bold", Line.TOTAL: "bold"}


def print_table(shown: Table) -> None:
    """Print a table to the terminal that stdout is."""
    from rich.console import Console

    console = Console(highlight=False)
    if len(shown.rows) > MOST_ROWS or console.width - _behind_names(shown) < LEAST_NAME:
        sys.stdout.writelines(f"{line}\n" for line in plain(shown))
        return
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold cyan")
    for number, column in enumerate(shown.columns):
        grid.add_column(
            column.title,
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=number > 0,
        )
    for line, name, cells in shown.rows:
        # Texts and not strings: in those, rich would read brackets as markup.
        grid.add_row(Text(name), *map(Text, cells), style=_STYLES[line])
    console.print(grid)


def _behind_names(shown: Table) -> int:
    """Return how wide everything is that stands behind the names."""
    from rich.cells import cell_len

    widths = [len(column.title) for column in shown.columns[1:]]
    for cells in {cells for _, _, cells in shown.rows}:
        widths = [max(pair) for pair in zip(widths, map(cell_len, cells), strict=True)]
    return sum(widths) + GAP * len(widths)
