"""What experiments.py keeps of a run: logs read, the machine named, results written and checked."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
import subprocess
from datetime import datetime
from functools import cache
from pathlib import Path

import torch

import mmkd_fm
from experiments_table import ROOT, Row, Table, Teacher, known
from machine import device_name, has_avx2

PARTS = (
    *('row', 'seed', 'config', 'options', 'tests', 'command', 'teacher', 'evaluations', 'curve'),
    *('seconds', 'seconds_per_iteration', 'epochs', 'environment', 'date'),
)
SOURCES = ('mmkd_fm', 'configs', 'tools')  # what can change a result


def environment(threads: int) -> dict:
    """The machine and the software, as the results state them.

    Args:
        threads: Threads of each run.
    """
    packages = {}
    for package in ('mmengine', 'mmcv', 'mmdet', 'mmpretrain'):
        try:
            packages[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = device_name(torch.device('cuda' if torch.cuda.is_available() else 'cpu'))
    return dict(
        device=device if torch.cuda.is_available() or not has_avx2() else f'{device}, AVX2',
        threads=threads,
        python=platform.python_version(),
        torch=torch.__version__,
        **packages,
        mmkd_fm=mmkd_fm.__version__,
        commit=_git('rev-parse', '--short=12', 'HEAD') or 'unknown',
        dirty=bool(_git('status', '--porcelain', '--', *SOURCES)),
    )


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ['git', *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ''
    return done.stdout.strip()


def machine(run: dict) -> tuple[str, str]:
    """Processor and torch version of a result: what differs in them is not compared."""
    return run['environment']['device'], run['environment']['torch']


@cache
def sha256(path: Path) -> str:
    """Hash of a file."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()


def public(value: object, work_dir: Path | None = None) -> object:
    """A value without absolute paths: those of the repository relative to it, others shortened.

    Args:
        value: Text, or lists and dictionaries with texts.
        work_dir: Folder that is called WORK_DIR if it is not in the repository.

    Example:
        >>> public('--out /home/someone/x.json')
        '--out .../x.json'
    """
    if isinstance(value, dict):
        return {key: public(part, work_dir) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [public(part, work_dir) for part in value]
    if not isinstance(value, str):
        return value
    value = value.replace(f'{ROOT}/', '')
    if work_dir is not None:
        value = value.replace(str(work_dir), 'WORK_DIR')
    return re.sub(r'(?<![\w.:/])/(?:[^/\s=,;\'"\[\]()]+/)+', '.../', value)


def result_path(table: Table, row: str, seed: int) -> Path:
    """Where the result of a run lies."""
    return table.elsewhere.get(row, table.folder) / 'runs' / f'{row}_seed{seed}.json'


def write_json(path: Path, content: object) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.part')
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    part.replace(path)


def declared(part: Row | Teacher) -> dict:
    """Config and options of a row or teacher as its results state them."""
    return dict(config=public(part.config), options=public(part.options))


def tests_of(table: Table, row: Row) -> dict[str, dict]:
    """The options of each evaluation of a row, beside its own, as its results state them."""
    return {key: public(options) for key, (_, options) in table.tests(row).items()}


def read_results(table: Table) -> list[dict]:
    """All results of a table, by row and seed as declared.

    Raises:
        ValueError: If a file is broken, or is none of this table's as it is declared now.
    """
    paths = [*table.folder.glob('runs/*.json')]
    paths += [result_path(table, row, seed) for row in table.elsewhere for seed in table.seeds]
    runs = [_read_result(path, table) for path in sorted(paths) if path.is_file()]
    rows = list(table.rows)
    return sorted(runs, key=lambda run: (rows.index(run['row']), table.seeds.index(run['seed'])))


def _read_result(path: Path, table: Table) -> dict:
    where = f'{path.parent.name}/{path.name}'
    remedy = 'delete the file, and it is run again'
    try:
        run = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{where}: expected JSON, got: {error}; {remedy}') from error
    if not isinstance(run, dict) or not set(PARTS) <= set(run):
        parts = [part for part in PARTS if not isinstance(run, dict) or part not in run]
        raise ValueError(f'{where}: {", ".join(parts)} missing; {remedy}')
    known(f'{where}: row', [run['row']], table.rows)
    known(f'{where}: seed', [run['seed']], table.seeds)
    if path != result_path(table, run['row'], run['seed']):
        expected = result_path(table, run['row'], run['seed'])
        expected = f'{expected.parents[1].name}/runs/{expected.name}'
        raise ValueError(
            f'{where}: holds row {run["row"]}, seed {run["seed"]}; its place is {expected}'
        )
    row = table.row_of(run['row'], run['seed'])
    _same(where, run, declared(row), 'table.py')
    if row.teacher is not None:
        teacher = table.teachers[row.teacher]
        expected = dict(name=teacher.name, seed=teacher.seed, **declared(teacher))
        _same(f'{where}: teacher', run['teacher'] or {}, expected, 'table.py')
    _same(where, run, dict(tests=tests_of(table, row)), 'table.py')
    if set(run['evaluations']) != set(run['tests']):
        raise ValueError(f'{where}: expected the evaluations {", ".join(run["tests"])}; {remedy}')
    for key, metrics in run['evaluations'].items():
        value = metrics.get(table.metric)
        if not isinstance(value, (int, float)):
            raise ValueError(
                f'{where}: {key}: expected a number for {table.metric}, got {value!r}; {remedy}'
            )
    return run


def _same(where: str, got: dict, expected: dict, source: str) -> None:
    """Refuse what was run otherwise than declared."""
    for key, value in expected.items():
        if got.get(key) != public(value):
            raise ValueError(
                f'{where} was run with other {key} than {source} declares: expected '
                f'{json.dumps(public(value))}, got {json.dumps(got.get(key))}; put table.py back, '
                'or delete what was run'
            )


def check_legs(folder: Path, part: Row | Teacher, seed: int) -> list[dict]:
    """What was noted of a work dir, sure to be that of this run.

    Args:
        folder: The work dir.
        part: The row or teacher that is trained there.
        seed: Its seed.

    Returns:
        A note for each leg of the training; none for a teacher that was trained by hand.

    Raises:
        ValueError: If it was trained with another config, option or seed, or by hand.
    """
    legs = read_legs(folder)
    if legs:
        _same(folder.name, legs[0], dict(seed=seed, **declared(part)), 'table.py')
    elif isinstance(part, Row) and any(folder.glob('*.pth')):
        raise ValueError(
            f'{folder.name} holds a checkpoint, but no legs.json that says how it was trained; '
            'delete the work dir'
        )
    return legs


def note_start(folder: Path, part: Row | Teacher, seed: int, now: dict) -> None:
    """Note with what a training starts or goes on.

    Args:
        folder: Its work dir.
        part: The row or teacher that is trained.
        seed: Its seed.
        now: What `environment` returns.

    Raises:
        ValueError: If it was begun with another config, option, seed, processor or torch.
    """
    legs = check_legs(folder, part, seed)
    for key in ('device', 'torch') if legs else ():
        before = legs[0]['environment'][key]
        if before != now[key]:
            raise ValueError(
                f'{folder.name} was begun with {key} {before}, this is {now[key]}; '
                'go on where it was begun, or delete its work dir'
            )
    date = datetime.now().isoformat(timespec='seconds')
    leg = dict(seed=seed, **declared(part), environment=now, date=date)
    write_json(folder / 'legs.json', [*legs, leg])


def read_legs(folder: Path) -> list[dict]:
    """What `note_start` noted; empty for a training that was begun by hand."""
    path = folder / 'legs.json'
    return json.loads(path.read_text(encoding='utf-8')) if path.is_file() else []
