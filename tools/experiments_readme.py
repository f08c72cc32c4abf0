"""The short tables of an experiment in a README, between their marks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from experiments_lines import (
    baselines_of,
    by_machine,
    difference_cells,
    lines_of,
    mean_cell,
)
from experiments_table import Table
from markdown_tables import markdown_table

ENOUGH = 3  # seeds that a row of the README has at least
MARKED = r'(?P<begin><!-- table: {name}(?:, rows: (?P<rows>[^>]+?))? -->).*?(?P<end><!-- end -->)'


def summary(table: Table, runs: Sequence[dict], rows: Sequence[str] = ()) -> str:
    """The first evaluation as a short table, for the README: rows with three seeds or more.

    Args:
        table: The table.
        runs: Its results.
        rows: Names of the rows to show, in the table's order; all if there are none.

    Raises:
        ValueError: If the runs come from several kinds of machines, whose numbers are not compared,
            or a row isn't in the table or has fewer seeds.
    """
    if len(by_machine(runs)) > 1:
        raise ValueError(
            f'{table.folder.name}: expected runs of one kind of machine and one torch for the '
            f'README, got {len(by_machine(runs))}; take its marks out of the README'
        )
    lines = [line for line in lines_of(table, runs, table.shown[0]) if not line.variant]
    lines = [line for line in lines if len(line.values) >= ENOUGH]
    baselines = baselines_of(table, lines)
    if rows:
        shown = [line.row for line in lines]
        if unknown := [row for row in rows if row not in shown]:
            raise ValueError(
                f'{table.folder.name}: the README asks for rows {", ".join(unknown)}, which have '
                f'fewer than {ENOUGH} seeds or are not declared; there are {", ".join(shown)}'
            )
        lines = [line for line in lines if line.row in rows]
    groups = {line.group for line in lines}
    baselines = [base for base in baselines if base.group in groups]
    header = ['student', 'seeds', f'{table.shown[0]}, mean ± s.d.']
    header += [f'minus {base.label}' for base in baselines]
    cells = []
    for line in lines:
        differences = difference_cells(table, line, baselines)
        values = list(line.values.values())
        cells.append([line.label, str(len(values)), mean_cell(values), *differences])
    return '\n'.join(markdown_table(header, cells))


def into_readme(table: Table, runs: Sequence[dict], readme: Path) -> bool:
    """Write the summary between each ``<!-- table: NAME -->`` and ``<!-- end -->``.

    ``<!-- table: NAME, rows: ROW ... -->`` shows these rows alone.

    Args:
        table: The table, NAME being that of its folder.
        runs: Its results.
        readme: The file.

    Returns:
        Whether the file has such marks.
    """
    text = readme.read_text(encoding='utf-8')
    marks = re.compile(MARKED.format(name=re.escape(table.folder.name)), re.DOTALL)

    def filled(marked: re.Match) -> str:
        rows = (marked['rows'] or '').split()
        return f'{marked["begin"]}\n{summary(table, runs, rows)}\n{marked["end"]}'

    written, count = marks.subn(filled, text)
    if count:
        readme.write_text(written, encoding='utf-8')
    return count > 0
