"""Tables in Markdown, as all reports write them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], text: int = 1
) -> list[str]:
    """The lines of a table.

    Args:
        header: Names of the columns.
        rows: Cells, as many as the header has.
        text: Number of leading columns that are text; the rest are numbers, to the right.
    """
    sides = '|---' * text + '|---:' * (len(header) - text) + '|'
    return [markdown_line(header), sides, *map(markdown_line, rows)]


def markdown_line(cells: Sequence[str]) -> str:
    """One line; a cell may hold bars."""
    return '| ' + ' | '.join(cell.replace('|', '\\|') for cell in cells) + ' |'
