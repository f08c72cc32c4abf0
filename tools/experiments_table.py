"""What experiments.py is to run: the declaration in table.py, read and checked."""

from __future__ import annotations

import difflib
import re
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmengine.config import Config, DictAction

ROOT = Path(__file__).resolve().parents[1]
VALIDATION = 'validation'
NAME = re.compile(r'[A-Za-z0-9][\w.-]*')
PARTS = (
    *('title', 'metric', 'scale', 'seeds', 'baselines'),
    *('teachers', 'rows', 'options', 'evaluations', 'folds', 'runs_of'),
)


@dataclass(frozen=True)
class Teacher:
    """A teacher, trained once.

    Attributes:
        name: What the rows call it.
        config: Its config as declared, relative to the repository.
        options: All its options.
        seed: Seed of its training.
    """

    name: str
    config: str
    options: dict
    seed: int


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: What files and the command line call it.
        label: What readers call it.
        config: Its config as declared, relative to the repository.
        options: All its options, those common to the table among them.
        teacher: Name of its teacher; None if it has none.
        variants: Further ways to test its checkpoint, name -> options.
        group: Rows of another group are not compared with it; None is one too.
    """

    name: str
    label: str
    config: str
    options: dict
    teacher: str | None
    variants: dict[str, dict]
    group: str | None


@dataclass(frozen=True)
class Table:
    """A declared table.

    Attributes:
        folder: Where table.py and the results lie.
        title: Title of the page.
        metric: Name of the metric that is compared.
        scale: What it is multiplied with to be in percent.
        seeds: Seeds of each row.
        baselines: Rows that all others of their group are compared with.
        teachers: Teachers by name.
        rows: Rows by name, in their order.
        evaluations: Tests of each checkpoint, name -> options; none, or 'validation' without
            options, takes the last validation of the training.
        folds: Number of folds of a cross-validation, of which seed N has fold N mod folds, in
            place of '{fold}' in the rows' teachers and options that are text; None without.
        elsewhere: Rows of other tables that this one shows, name -> that table's folder, where
            their results lie.
    """

    folder: Path
    title: str
    metric: str
    scale: float
    seeds: list[int]
    baselines: list[str]
    teachers: dict[str, Teacher]
    rows: dict[str, Row]
    evaluations: dict[str, dict]
    folds: int | None
    elsewhere: dict[str, Path] = field(default_factory=dict)

    @property
    def shown(self) -> list[str]:
        """Names of the evaluations that have a table each."""
        return list(self.evaluations) or [VALIDATION]

    def row_of(self, name: str, seed: int) -> Row:
        """A row as this seed trains it."""
        row = self.rows[name]
        if self.folds is None:
            return row

        def filled(value: object) -> object:
            fold = str(seed % self.folds)
            return value.replace('{fold}', fold) if isinstance(value, str) else value

        options = {key: filled(value) for key, value in row.options.items()}
        return replace(row, options=options, teacher=filled(row.teacher))

    def tests(self, row: Row) -> dict[str, tuple[str, dict]]:
        """How a row is evaluated: key in its results -> evaluation, options beside the row's."""
        common = self.evaluations or {VALIDATION: {}}
        tests = {name: (name, options) for name, options in common.items()}
        for variant, own in row.variants.items():
            for name, options in common.items():
                tests[f'{name}/{variant}'] = (name, {**options, **own})
        return tests


def known(what: str, names: object, valid: object) -> None:
    """Check names.

    Raises:
        ValueError: If one is not valid; it lists the valid ones.
    """
    unknown = [name for name in names if name not in list(valid)]
    if unknown:
        raise ValueError(
            f'{what}: {", ".join(map(str, unknown))} not known; '
            f'valid names: {", ".join(map(str, valid)) or "none"}'
        )


def flat(options: dict, prefix: str = '') -> dict:
    """Options with nested dictionaries as dotted keys.

    Example:
        >>> flat({'model': {'terms': ['kd']}})
        {'model.terms': ['kd']}
    """
    result = {}
    for key, value in options.items():
        if isinstance(value, dict):
            result.update(flat(value, f'{prefix}{key}.'))
        else:
            result[prefix + key] = value
    return result


def as_arguments(options: dict) -> list[str]:
    """Options as `--cfg-options` takes them.

    Raises:
        ValueError: If the command line would make something else of a value.

    Example:
        >>> as_arguments({'model.terms': ['wttm', 'fmkt']})
        ['model.terms=[wttm,fmkt]']
    """
    arguments = []
    for key, value in options.items():
        text = _text(value)
        try:
            understood = DictAction._parse_iterable(text)
        except AssertionError:
            understood = None
        if repr(understood) != repr(value):
            raise ValueError(
                f'option {key}: {value!r} can not be given on a command line, which reads it as '
                f'{understood!r}; put it into a config'
            )
        arguments.append(f'{key}={text}')
    return arguments


def _text(value: object) -> str:
    if isinstance(value, list):
        return f'[{",".join(map(_text, value))}]'
    if isinstance(value, tuple):
        return f'({",".join(map(_text, value))})'
    return str(value)


def read_table(folder: Path) -> Table:
    """Read and check a folder's table.py.

    Args:
        folder: The folder.

    Raises:
        ValueError: If it is missing or declares something that can't be.
    """
    path = folder / 'table.py'
    if not path.is_file():
        raise ValueError(
            f'{path}: expected the declaration of a table, got no file; '
            'docs/results/cifar10/table.py is an example'
        )
    try:
        cfg = Config.fromfile(path)._cfg_dict.to_dict()
    except Exception as error:  # whatever Python may say of a file
        raise ValueError(f'{path} can not be read: {type(error).__name__}: {error}') from error
    missing = [key for key in ('title', 'metric', 'seeds', 'rows') if not cfg.get(key)]
    if missing:
        raise ValueError(f'{path}: expected {", ".join(missing)}, got none; declare them')
    seeds = cfg['seeds']
    if not all(type(seed) is int and seed >= 0 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ValueError(f'{path}: seeds are different non-negative integers; got {seeds}')
    try:
        return _table(folder, cfg)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error


def _table(folder: Path, cfg: dict) -> Table:
    for name in set(cfg) - set(PARTS):  # helpers of the file, but no misspelt part
        meant = difflib.get_close_matches(name, PARTS, 1, 0.8)
        if meant:
            raise ValueError(f'{name} is no part of a table; do you mean {meant[0]}?')
    common, rows, teachers = cfg.get('options', {}), cfg['rows'], cfg.get('teachers', {})
    metric = cfg['metric']
    table = Table(
        folder=folder,
        title=cfg['title'],
        metric=metric,
        scale=cfg.get('scale', 100 if metric.startswith('coco/') else 1),
        seeds=cfg['seeds'],
        baselines=cfg.get('baselines', []),
        teachers={name: _teacher(name, part, common) for name, part in teachers.items()},
        rows={name: _row(name, part, common) for name, part in rows.items()},
        evaluations={name: flat(own) for name, own in cfg.get('evaluations', {}).items()},
        folds=cfg.get('folds'),
    )
    if table.folds is not None and (type(table.folds) is not int or table.folds < 2):
        raise ValueError(f'folds: expected a number of at least 2, or none, got {table.folds!r}')
    known('baselines', table.baselines, table.rows)
    for name in [*table.rows, *table.teachers, *table.evaluations]:
        _check_name(name)
    for options in table.evaluations.values():
        as_arguments(options)
        if '{fold}' in f'{options}':
            raise ValueError(
                "evaluations: '{fold}' is filled in as a teacher and in options of a row, here it "
                'would stay as it is; name the file of the fold in the options of the rows'
            )
    for row in (table.row_of(name, seed) for name in table.rows for seed in table.seeds):
        if '{fold}' in f'{row}':
            raise ValueError(
                f"row {row.name!r}: '{{fold}}' stays as it is; it is filled in as a teacher and in "
                'options that are text, of a table that declares folds'
            )
        if row.teacher is not None:
            known(f'teacher of row {row.name!r}', [row.teacher], table.teachers)
    if 'runs_of' in cfg:
        others = [cfg['runs_of']] if isinstance(cfg['runs_of'], str) else cfg['runs_of']
        for other in others:
            table.elsewhere.update(_elsewhere(table, (folder / other).resolve()))
    return table


def _elsewhere(table: Table, folder: Path) -> dict[str, Path]:
    """Rows whose runs are another table's, which has to declare them in the same way."""
    other = read_table(folder)
    for name in table.rows.keys() & other.rows.keys():
        for what, own, its in [
            ('row', table.rows[name], other.rows[name]),
            ('teachers', table.teachers, other.teachers),
            ('evaluations', table.evaluations, other.evaluations),
            ('folds', table.folds, other.folds),
            ('metric', table.metric, other.metric),
        ]:
            if own != its:
                raise ValueError(
                    f'runs_of: {other.folder.name} has a row {name!r} too, with another {what}; '
                    'take the row from there as it is, or give it another name'
                )
        known(f'seeds of row {name!r}, which is of {folder.name}', table.seeds, other.seeds)
    return {name: other.elsewhere.get(name, folder) for name in other.rows if name in table.rows}


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise ValueError(f'{name!r} is no name of a file; take letters, digits, "_", "." and "-"')


def _teacher(name: str, part: dict, common: dict) -> Teacher:
    known(f'parts of teacher {name!r}', part, ['config', 'options', 'seed'])
    config, options = _config(f'teacher {name!r}', part, common)
    return Teacher(name, config, options, part.get('seed', 0))


def _row(name: str, part: dict, common: dict) -> Row:
    parts = ['config', 'options', 'teacher', 'label', 'evaluations', 'group']
    known(f'parts of row {name!r}', part, parts)
    config, options = _config(f'row {name!r}', part, common)
    variants = {variant: flat(own) for variant, own in part.get('evaluations', {}).items()}
    for variant, own in variants.items():
        _check_name(variant)
        as_arguments(own)
    label, teacher, group = part.get('label', name), part.get('teacher'), part.get('group')
    return Row(name, label, config, options, teacher, variants, group)


def _config(who: str, part: dict, common: dict) -> tuple[str, dict]:
    """Config and all options of a row or a teacher."""
    if 'config' not in part:
        raise ValueError(f'{who}: expected config=..., the file to train; got none')
    options = {**flat(common), **flat(part.get('options', {}))}
    as_arguments(options)
    return part['config'], options


_READING = threading.Lock()
"""MMEngine reads a config by importing a temporary module: two threads must not do it at once."""


def load_config(config: str, options: dict) -> Config:
    """A config with its options.

    Raises:
        ValueError: If there is no such file or it can't be read.
    """
    path = ROOT / config
    if not path.is_file():
        raise ValueError(f'there is no config {config}; paths are relative to the repository')
    try:
        with _READING:
            cfg = Config.fromfile(path, import_custom_modules=False)
        cfg.merge_from_dict(options)
    except Exception as error:  # a package that is not there, a key that can't be merged
        raise ValueError(f'{config} can not be read: {type(error).__name__}: {error}') from error
    return cfg
