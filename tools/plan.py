"""What a distillation will do, before it runs: taps, levels, channels, costs; no data, no weights.

python tools/plan.py CONFIG [--size H W] [--markdown FILE] [--cfg-options KEY=VALUE ...]
python tools/plan.py STUDENT_CONFIG --teacher TEACHER_CONFIG [--distill fmkt wttm]
python tools/plan.py CONFIG --check

`--check` takes one training step on random data and says what of this package's contract holds: for
models with a backbone, neck or head of your own (docs/own_models.md). Its exit status is 1 if any
check fails.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mm_tool import make_importable
from one_line import add_options, described, read_config, resolve

if TYPE_CHECKING:
    from mmengine.config import Config
    from rich.console import Console

CHECKED_SIDE = 320
"""Largest side of the images of `--check`, unless `--size` is given."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Options of the command line."""
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(
        description='Show what a distillation will do: taps, levels, costs.'
    )
    parser.add_argument('config', help='of a distillation, or with --teacher of a plain student')
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='of the images (default: that of the test pipeline)',
    )
    parser.add_argument('--markdown', type=Path, metavar='FILE', help='write the plan as a page')
    parser.add_argument(
        '--check', action='store_true', help='take a training step on random data, and check it'
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    add_options(parser)
    parsed = parser.parse_args(arguments)
    if parsed.size and min(parsed.size) < 32:
        parser.error(f'--size: expected sides of at least 32 pixels, got {parsed.size}')
    return parsed


def read(arguments: argparse.Namespace) -> Config:
    """The config of the distillation.

    Raises:
        ValueError: If it is none.
    """
    if arguments.teacher or arguments.distill:
        return resolve(**described(arguments))
    cfg = read_config(arguments.config)
    cfg.merge_from_dict(arguments.cfg_options)
    if 'student' not in cfg.get('model', {}):
        raise ValueError(
            f'{arguments.config} is not of a distillation: its model has no student. Of a plain '
            f'student name the teacher too: --teacher CONFIG [--distill NAME ...]'
        )
    return cfg


def main(arguments: Sequence[str]) -> int:
    """Print the plan, or the checks; gives the exit status."""
    from rich.console import Console

    parsed, console = parse(arguments), Console()
    if parsed.markdown and parsed.markdown.is_dir():
        console.print(f'error: --markdown: {parsed.markdown} is a folder; name a file')
        return 1
    try:
        cfg = read(parsed)
        return check(cfg, parsed, console) if parsed.check else plan(cfg, parsed, console)
    except Exception as error:  # whatever a config's code, or a module that it names, raises
        what = f'{error}' if isinstance(error, ValueError) else _described(error)
        console.print(f'error: {what}', highlight=False, markup=False, soft_wrap=True)
        return 1


def _described(error: Exception) -> str:
    """An error that says little by itself, with the place where it was raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f'{type(error).__name__}: {error} ({frame.filename}, line {frame.lineno})'


def plan(cfg: Config, arguments: argparse.Namespace, console: Console) -> int:
    """Print the plan, and write it."""
    from plan_measure import default_size, make_plan
    from plan_models import build_distiller
    from plan_report import show, write

    model = build_distiller(cfg)
    made = make_plan(cfg, model, tuple(arguments.size or default_size(cfg)))
    show(made, console)
    if arguments.markdown:
        write(made, f'Plan of {Path(arguments.config).stem}', arguments.markdown)
        console.print(f'written: {arguments.markdown}', highlight=False)
    return 0


def check(cfg: Config, arguments: argparse.Namespace, console: Console) -> int:
    """Print what holds; 1 if anything does not."""
    from plan_check import Conformance
    from plan_measure import default_size

    size = arguments.size or [min(side, CHECKED_SIDE) for side in default_size(cfg)]
    outcomes = Conformance(cfg, tuple(size)).run()
    words = {True: '[green]pass[/]', False: '[red]FAIL[/]', None: '[yellow]not tried[/]'}
    for outcome in outcomes:
        console.print(f'{words[outcome.passed]}  {outcome.name}', highlight=False)
        console.print(f'      {outcome.message}', highlight=False, markup=False, soft_wrap=True)
    return int(any(outcome.passed is False for outcome in outcomes))


if __name__ == '__main__':
    make_importable()
    import mmkd_fm.registry  # noqa: F401 (configs are then read by the safe loader)

    sys.exit(main(sys.argv[1:]))
