"""Lines and cells of the tables of experiments, which page, figure and README share."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from experiments_record import machine
from experiments_statistics import Difference, paired_difference
from experiments_table import Table


@dataclass(frozen=True)
class Line:
    """A line of a table.

    Attributes:
        row: Name of its row.
        variant: Name of its own way of testing; None for the table's.
        label: What readers call it.
        group: Lines of another are not compared with it.
        values: Seed -> metric in percent.
        seconds: Seconds of an iteration, of each run whose log has it.
    """

    row: str
    variant: str | None
    label: str
    group: str | None
    values: dict[int, float]
    seconds: list[float]


def by_machine(runs: Sequence[dict]) -> list[list[dict]]:
    """Runs that may be compared: of one kind of processor and one torch."""
    groups: dict[tuple, list[dict]] = {}
    for run in runs:
        groups.setdefault(machine(run), []).append(run)
    return list(groups.values())


def lines_of(table: Table, runs: Sequence[dict], evaluation: str) -> list[Line]:
    """Lines of an evaluation's table, as declared; those without a run are left out.

    Args:
        table: The table.
        runs: Results of one kind of machine.
        evaluation: Name of the evaluation.
    """
    lines = []
    for row in table.rows.values():
        own = [run for run in runs if run['row'] == row.name]
        for variant in (None, *row.variants):
            key = evaluation if variant is None else f'{evaluation}/{variant}'
            label = row.label if variant is None else f'{row.label}, {variant}'
            values = {
                run['seed']: table.scale * run['evaluations'][key][table.metric] for run in own
            }
            times = [run['seconds_per_iteration'] for run in own if run['seconds_per_iteration']]
            if values:
                lines.append(Line(row.name, variant, label, row.group, values, times))
    return lines


def show_difference(difference: Difference | None) -> str:
    """'+1.2 (+0.3 to +2.1)', or why there is no interval: one seed, one fold, or all agree."""
    if difference is None:
        return '-'
    if difference.half is None:
        one = 'seed' if len(difference.seeds) == 1 else 'fold'
        return f'{difference.mean:+.2f} (one {one}: no interval)'
    if difference.half < 1e-9:  # values are rounded: no certainty
        return f'{difference.mean:+.2f} (in each: no interval)'
    low, high = difference.mean - difference.half, difference.mean + difference.half
    return f'{difference.mean:+.2f} ({low:+.2f} to {high:+.2f})'


def baselines_of(table: Table, lines: Sequence[Line]) -> list[Line]:
    """Lines that all others are compared with, of those with a run."""
    base = {line.row: line for line in lines if line.variant is None}
    return [base[name] for name in table.baselines if name in base]


def difference_cells(table: Table, line: Line, baselines: Sequence[Line]) -> list[str]:
    """A line minus each baseline; nothing where it is that one, or one of another group."""
    differences = [paired_difference(line.values, base.values, table.folds) for base in baselines]
    return [
        '' if line is base or line.group != base.group else show_difference(difference)
        for base, difference in zip(baselines, differences)
    ]


def mean_cell(values: Sequence[float]) -> str:
    """'41.20 ± 0.30'; without a deviation where there is one value."""
    deviation = f' ± {statistics.stdev(values):.2f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.2f}{deviation}'
