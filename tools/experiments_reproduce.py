"""Runs of a table once more, and whether their figures are those that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments_record import machine, read_results
from experiments_table import Table


def once_more(table: Table, work_dir: Path) -> Table:
    """The same table with its results in the work dir, so that those that are kept stay.

    Args:
        table: The table.
        work_dir: Folder of all work dirs.
    """
    return replace(table, folder=work_dir / 'results', elsewhere={})


def comparison(table: Table, again: Table, rows: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """A line for each run that was made once more, with the figures of both.

    Args:
        table: The table, with the results that are kept.
        again: What `once_more` returned, with those of now.
        rows: Names of the rows that are compared.
        seeds: Their seeds.

    Raises:
        ValueError: If a file is broken, or is none of this table's as it is declared now.
    """
    kept = {(run['row'], run['seed']): run for run in read_results(table)}
    return [
        f'{run["row"]}, seed {run["seed"]}: '
        + _verdict(table, run, kept.get((run['row'], run['seed'])))
        for run in read_results(again)
        if run['row'] in rows and run['seed'] in seeds
    ]


def _verdict(table: Table, run: dict, kept: dict | None) -> str:
    if kept is None:
        return f'{_figures(table, run)}, none kept'
    figures = f'{_figures(table, run)}, kept {_figures(table, kept)}'
    if run['evaluations'] == kept['evaluations']:
        return f'{figures}: all metrics are equal'
    if machine(run) != machine(kept):
        now, then = (', torch '.join(machine(one)) for one in (run, kept))
        return f'{figures}: other machines ({now}; {then}) need not agree'
    return f'{figures}: differs on a machine of the same name (threads, or code since then?)'


def _figures(table: Table, run: dict) -> str:
    values = (metrics[table.metric] for metrics in run['evaluations'].values())
    return ' / '.join(f'{table.scale * value:.2f}' for value in values)
