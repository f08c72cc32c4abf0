"""Train, test and compare the rows of a table, with several seeds each, by one command.

    python tools/experiments.py docs/results/cifar10

The folder's table.py declares what is run. Each run leaves a small file in runs/; from these files
come the page beside the folder and its figure. The folder's notes.md, if there is one, is put below
the tables. Teachers are trained first, then seed by seed all rows, so that a table that is stopped
early is balanced. A table may cross-validate, its seeds taking turns on folds, as
docs/results/bccd-folds does, and show rows of another table, whose runs they stay, as
docs/results/bccd-folds-weights does.

It can be interrupted at any time: the same command goes on where it stopped. `--reproduce` runs
what is there once more, with its teachers, in a work dir of its own, and compares the figures.
Without a GPU trainings use no newer instructions than AVX2, so that other processors compute the
same. What is not here: tuning. The rows are what table.py says before they are run.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone works without installing

from rich.console import Console

from experiments_job import Job
from experiments_processes import Processes, gpus
from experiments_record import public, read_results
from experiments_report import render
from experiments_reproduce import comparison, once_more
from experiments_run import run_all
from experiments_table import ROOT, Table, known, load_config, read_table


def plan(table: Table, rows: list[str], seeds: list[int], work_dir: Path) -> list[list[Job]]:
    """What is left to do: the teachers that are needed, then all rows, seed by seed.

    Raises:
        ValueError: If a name or a seed is not in the table, or a config can't be read.
    """
    known('--rows', rows, table.rows)
    known('--seeds', seeds, table.seeds)
    chosen = [name for name in table.rows if name in rows]
    runs = [
        Job(table, table.row_of(name, seed), seed, work_dir)
        for seed in table.seeds
        if seed in seeds
        for name in chosen
    ]
    needed = {job.part.teacher for job in runs} - {None}
    rows_of_seeds = {job.part.name: job.part for job in runs}
    for part in [*rows_of_seeds.values(), *(table.teachers[name] for name in needed)]:
        try:
            load_config(part.config, part.options)
        except ValueError as error:
            raise ValueError(f'{part.name}: {error}') from error
    runs = [job for job in runs if not job.done()]
    teachers = {job.teacher.name: job.teacher for job in runs if job.teacher is not None}
    return [[job for job in teachers.values() if not job.done()], runs]


def show_plan(stages: list[list[Job]], console: Console) -> None:
    """Print what would be run."""
    for job in (job for stage in stages for job in stage):
        found = job.last_checkpoint()
        begun = f', from {found[1].name}' if found else ''
        command = ' '.join(public(['python', *job.train_command()[1:]], job.work_dir))
        console.print(f'{job.name}{begun}: {command}', markup=False, soft_wrap=True)
    console.print(f'{sum(map(len, stages))} to run')


def run(args: argparse.Namespace, console: Console) -> int:
    """Run what is left and render the page.

    Returns:
        The exit status.
    """
    table = read_table(args.folder)
    read_results(table)  # a broken one is to be known now
    failed = 0
    if not args.render:
        work_dir = args.work_dir or ROOT / 'work_dirs/experiments' / args.folder.name
        if args.reproduce:  # apart from what is trained, which would only be tested again
            work_dir = work_dir / 'reproduce' / args.folder.name
        work_dir = work_dir.resolve()
        rows, seeds = args.rows or list(table.rows), args.seeds or table.seeds
        declared = once_more(table, work_dir) if args.reproduce else table
        with console.status('reading the configs'):  # each row's with its options
            stages = plan(declared, rows, seeds, work_dir)
        if args.dry_run:
            show_plan(stages, console)
            return 0
        workers = args.workers or len(gpus()) or 1
        processes = Processes(args.threads)
        console.print(f'{sum(map(len, stages))} to run, {workers} at a time', highlight=False)
        try:
            failed = run_all(stages, workers, processes, console)
        except KeyboardInterrupt:
            console.print('interrupted; the same command goes on from here')
            failed = 130
        if args.reproduce:
            for line in comparison(table, declared, rows, seeds):
                console.print(line, highlight=False, markup=False, soft_wrap=True)
            return failed if failed == 130 else int(failed > 0)
    for path in render(table, read_results(table)):
        console.print(f'written: {path}', highlight=False, soft_wrap=True)
    return failed if failed == 130 else int(failed > 0)


def main(argv: list[str] | None = None) -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', type=Path, help='folder with table.py')
    parser.add_argument(
        '--workers',
        type=int,
        metavar='N',
        help='runs at a time, each on a GPU of its own (default: number of GPUs, 1 without)',
    )
    parser.add_argument(
        '--threads', type=int, default=1, metavar='N', help='CPU threads of a run (default: 1)'
    )
    parser.add_argument('--rows', nargs='+', metavar='ROW', help='only these (default: all)')
    parser.add_argument(
        '--seeds', type=int, nargs='+', metavar='N', help='only these (default: all)'
    )
    parser.add_argument(
        '--work-dir',
        type=Path,
        help='folder for logs and checkpoints (default: work_dirs/experiments/ and the name of '
        'the folder); --reproduce has its own in it',
    )
    todo = parser.add_mutually_exclusive_group()
    todo.add_argument('--render', action='store_true', help='run nothing, write page and figure')
    todo.add_argument(
        '--reproduce',
        action='store_true',
        help='run the chosen rows though their results are there, teachers too, and say whether '
        'the figures are the same; changes nothing in the folder',
    )
    parser.add_argument('--dry-run', action='store_true', help='print what would be run')
    args = parser.parse_args(argv)
    for name in ('workers', 'threads'):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f'--{name}: expected at least 1, got {getattr(args, name)}')
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # trainings end with this process
    args.folder = args.folder.resolve()
    console = Console()
    try:
        return run(args, console)
    except ValueError as error:
        console.print(f'experiments: {error}', style='red', markup=False, soft_wrap=True)
        return 1


if __name__ == '__main__':
    sys.exit(main())
