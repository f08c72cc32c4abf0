#!/usr/bin/env python3
"""Makes a virtual environment in which everything of this project runs.

What it does, in order: a venv; torch; torchvision and mmpretrain where they fit; mmengine and mmdet; mmcv; this project,
editable, with what its tests need. mmcv is taken from the first of these that works: a wheel that an earlier run
built (kept under ``$XDG_CACHE_HOME/mmkd_fm/wheels``), OpenMMLab's prebuilt wheel, a build from source.

It needs nothing but the Python that runs it, can be interrupted at any time and run again, and does nothing when the
environment is already as it should be. Nothing outside the venv and that cache folder is changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

MMCV = '2.1.0'  # mmdet 3.3.0 refuses 2.2.0 and later
PYTHONS = ((3, 9), (3, 12))  # oldest and newest
DEFAULT_TORCH = '2.1.2'  # the newest line for which OpenMMLab publishes mmcv 2.1.0
NEWEST_TORCH = '2.13.0'  # the newest on which mmcv 2.1.0 was seen to build
BUILD_TOOLS = ('pip>=23.1', 'setuptools<81', 'wheel', 'ninja', 'psutil')
TICK = 15  # seconds between two lines of progress


# ---------------------------------------------------------------- what to install


def python_problem(python: tuple[int, int]) -> str:
    """What is wrong with this Python as the base of the environment, or nothing."""
    oldest, newest = PYTHONS
    if oldest <= python <= newest:
        return ''
    names = [f'python3.{minor}' for minor in range(newest[1], oldest[1] - 1, -1)]
    found = [name for name in names if shutil.which(name)]
    return (
        f'expected Python 3.{oldest[1]} to 3.{newest[1]}, got {python[0]}.{python[1]} ({sys.executable}). '
        + (
            f'Use one that is here: make env BASE_PYTHON={found[0]}'
            if found
            else 'Install Python 3.11 (apt install python3.11-venv python3.11-dev, dnf install python3.11-devel, '
            'or conda create -n py311 python=3.11), then: make env BASE_PYTHON=python3.11'
        )
    )


def default_torch(python: tuple[int, int]) -> str:
    """The torch of the default set: 2.1.2 has no wheels for Python 3.12."""
    return DEFAULT_TORCH if python < (3, 12) else NEWEST_TORCH


@dataclass(frozen=True)
class Plan:
    """The pinned set for one torch and one Python."""

    torch: str
    python: tuple[int, int]

    def __post_init__(self):
        """Refuses sets that cannot be installed."""
        if not re.fullmatch(r'\d+\.\d+\.\d+', self.torch):
            raise SetupError(
                f'expected a full torch version such as {NEWEST_TORCH}, got {self.torch!r}'
            )
        torch = version_tuple(self.torch)
        if torch < (2, 1):
            raise SetupError(
                f'expected torch 2.1 or newer, got {self.torch}. Use TORCH={DEFAULT_TORCH}'
            )
        if torch < (2, 2) and self.python >= (3, 12):
            raise SetupError(
                f'torch {self.torch} has no wheels for Python 3.12. Use TORCH={NEWEST_TORCH}, '
                'or an older Python: make env BASE_PYTHON=python3.11'
            )
        if torch >= (2, 9) and self.python < (3, 10):
            raise SetupError(
                f'torch {self.torch} needs Python 3.10 or newer, got 3.{self.python[1]}. '
                f'Use TORCH={DEFAULT_TORCH}, or a newer Python: make env BASE_PYTHON=python3.11'
            )

    @property
    def torch_set(self) -> tuple[str, ...]:
        """Torch, and the numpy and opencv that it works with: wheels before torch 2.3 are built for numpy 1."""
        if version_tuple(self.torch) < (2, 3):
            return (f'torch=={self.torch}', 'numpy<2', 'opencv-python<4.12')
        return (f'torch=={self.torch}', 'numpy', 'opencv-python')

    @property
    def torchvision(self) -> str:
        """torchvision 0.N.P belongs to torch 2.(N-15).P."""
        _, minor, patch = version_tuple(self.torch)
        return f'torchvision==0.{minor + 15}.{patch}'

    @property
    def mm_set(self) -> tuple[str, ...]:
        """The OpenMMLab packages that are plain Python."""
        return ('mmengine==0.10.7', 'mmdet==3.3.0', 'pycocotools')

    @property
    def mmpretrain(self) -> str:
        """Installed only where torchvision works: without it mmpretrain does not import."""
        return 'mmpretrain==1.2.0'

    @property
    def constraints(self) -> tuple[str, ...]:
        """What no later step may change."""
        return (
            *self.torch_set,
            *self.mm_set,
            self.torchvision,
            self.mmpretrain,
            f'mmcv=={MMCV}',
            'setuptools<81',
        )

    def key(self, venv: Path, setup_py: Path = ROOT / 'setup.py') -> str:
        """A hash of all that the environment depends on; another key means: install again."""
        parts = [
            *BUILD_TOOLS,
            *self.constraints,
            repr(self.python),
            str(venv),
            setup_py.read_text(encoding='utf-8'),
        ]
        return hashlib.sha256('\n'.join(parts).encode()).hexdigest()[:16]


# ---------------------------------------------------------------- the environment


INSTALLED = """
import importlib.metadata, importlib.util, json, pathlib, sys
versions = {d.metadata['Name']: d.version for d in importlib.metadata.distributions()}
spec = importlib.util.find_spec('mmcv')
ops = spec and any(pathlib.Path(spec.origin).parent.glob('_ext*'))
print(json.dumps(dict(ops=bool(ops), versions=versions)))
"""
TORCHVISION_WORKS = """
import torch, torchvision
torchvision.ops.nms(torch.tensor([[0., 0., 1., 1.]]), torch.ones(1), 0.5)
"""
WATCHED = (
    'torch',
    'numpy',
    'opencv-python',
    'mmcv',
    'mmengine',
    'mmdet',
    'mmkd_fm',
    'setuptools',
    'pytest',
    'ruff',
)


def installed(python: Path) -> dict[str, str] | None:
    """The versions of the watched packages, or None where the environment is incomplete."""
    if not python.exists():
        return None
    answer = ask(python, INSTALLED)
    if answer.returncode != 0:
        return None
    found = json.loads(answer.stdout)
    versions = {name: found['versions'].get(name) for name in WATCHED}
    return versions if found['ops'] and None not in versions.values() else None


def is_ready(venv: Path, key: str) -> bool:
    """Whether an earlier run finished this very set and nothing was changed since; takes a fraction of a second."""
    try:
        stamp = json.loads(stamp_file(venv).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return False
    return stamp['key'] == key and stamp['versions'] == installed(venv / 'bin' / 'python')


def stamp_file(venv: Path) -> Path:
    """The file that says that an environment is complete."""
    return venv / 'mmkd_fm-env.json'


def make_venv(venv: Path, python_version: tuple[int, int]) -> Path:
    """Creates the venv where there is none; never deletes one."""
    python = venv / 'bin' / 'python'
    if not python.exists():
        if venv.exists() and any(venv.iterdir()):
            raise SetupError(
                f'{venv} exists but holds no working Python. Remove it and run this again: rm -r {venv}'
            )
        result = subprocess.run(
            [sys.executable, '-m', 'venv', str(venv)], capture_output=True, text=True, check=False
        )
        if result.returncode != 0:
            shutil.rmtree(venv, ignore_errors=True)
            raise SetupError(
                f'{sys.executable} cannot make a virtual environment:\n{(result.stdout + result.stderr)[-600:]}\n'
                f'  Install its venv module: apt install python3.{python_version[1]}-venv'
            )
    got = ask(python, 'import sys; print(*sys.version_info[:2])').stdout.split()
    if got != [str(part) for part in python_version]:
        raise SetupError(
            f'{venv} was made with Python {".".join(got) or "(it does not start)"}, this is '
            f'{".".join(map(str, python_version))}. Remove it and run this again: rm -r {venv}'
        )
    return python


def install(plan: Plan, venv: Path) -> None:
    """Brings the environment to the plan, step by step; a step that is done already costs seconds."""
    print(f'Environment {venv}: the first time takes 5 min, or 15 where mmcv has to be built.')
    print('It can be interrupted (Ctrl-C) and run again: what was installed stays.', flush=True)
    python = make_venv(venv, plan.python)
    stamp_file(venv).unlink(missing_ok=True)
    log = venv / 'setup.log'
    log.unlink(missing_ok=True)
    constraints = venv / 'constraints.txt'
    constraints.write_text('\n'.join(plan.constraints) + '\n', encoding='utf-8')
    pip = [str(python), '-m', 'pip', 'install', '-c', str(constraints)]

    def step(number: int, title: str, *what: str) -> None:
        print(f'[{number}/6] {title}', flush=True)
        if what:
            run_step([*pip, *what], log)

    step(1, 'build tools (10 s)', *BUILD_TOOLS)
    size = (
        '; the CUDA build downloads about 2.5 GB and takes 5 GB of disk'
        if sys.platform == 'linux'
        else ''
    )
    step(2, f'torch {plan.torch}, numpy, opencv (3 min{size})', *plan.torch_set)
    step(3, f'{plan.torchvision}, for mmpretrain (10 s)')
    extra = install_torchvision(plan, python, pip, log)
    step(4, 'mmengine, mmdet' + ', mmpretrain' * bool(extra) + ' (1 min)', *plan.mm_set, *extra)
    step(5, f'mmcv {MMCV}')
    install_mmcv(python, log)
    step(
        6,
        'mmkd_fm, editable, with pytest and ruff (20 s)',
        '--no-build-isolation',
        '-e',
        f'{ROOT}[dev]',
    )

    versions = installed(python)
    check = ask(python, 'import mmcv.ops, mmdet.models')
    if versions is None or check.returncode != 0:
        raise SetupError(
            f'the environment is incomplete:\n{check.stderr[-800:]}\n  The whole log: {log}'
        )
    stamp = dict(key=plan.key(venv), versions=versions)
    stamp_file(venv).write_text(json.dumps(stamp, indent=1), encoding='utf-8')


def install_torchvision(plan: Plan, python: Path, pip: list[str], log: Path) -> tuple[str, ...]:
    """Installs torchvision where one fits this torch; returns what may be installed on top of it."""
    try:
        run_step([*pip, '--no-deps', plan.torchvision], log)
        if ask(python, TORCHVISION_WORKS).returncode == 0:
            return (plan.mmpretrain,)
        run_step([str(python), '-m', 'pip', 'uninstall', '-y', 'torchvision'], log)
    except SetupError:
        pass
    print(
        '    skipped: none works with this build of torch. Detection does not need it; mmpretrain is left out too.'
    )
    return ()


def describe(plan: Plan, venv: Path) -> str:
    """The plan in words, for --dry-run."""
    tag = 'cp{}{}'.format(*plan.python)
    key = wheel_key(f'{plan.torch}[+build]', tag, 'cpu|cuXYZ')
    prebuilt = version_tuple(plan.torch) < (2, 2)
    return '\n'.join(
        [
            f'base Python   {sys.executable} ({plan.python[0]}.{plan.python[1]})',
            f'environment   {venv} ({"ready" if is_ready(venv, plan.key(venv)) else "to be made or completed"})',
            f'build tools   {" ".join(BUILD_TOOLS)}',
            f'torch         {" ".join(plan.torch_set)}',
            f'torchvision   {plan.torchvision} and {plan.mmpretrain}, skipped where they do not work',
            f'OpenMMLab     {" ".join(plan.mm_set)}',
            f'mmcv          {MMCV}: kept wheel, {"prebuilt wheel, " if prebuilt else ""}source build',
            f'kept wheels   {wheel_folder(key)}',
            f'project       {ROOT}[dev], editable',
        ]
    )


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--torch', help=f'torch version (default: {DEFAULT_TORCH}; {NEWEST_TORCH} on Python 3.12)'
    )
    parser.add_argument(
        '--venv', type=Path, help='folder (default: .venv, or .venv-torch<version> with --torch)'
    )
    parser.add_argument(
        '--dry-run', action='store_true', help='print what would be done, change nothing'
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the steps; returns the exit code."""
    args = parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # ends the running step like Ctrl-C
    start = time.monotonic()
    try:
        python = sys.version_info[:2]
        problem = python_problem(python)
        if problem:
            raise SetupError(problem)
        plan = Plan(args.torch or default_torch(python), python)
        venv = (
            args.venv or ROOT / (f'.venv-torch{args.torch}' if args.torch else '.venv')
        ).resolve()
        if args.dry_run:
            print(describe(plan, venv))
            return 0
        ready = is_ready(venv, plan.key(venv))
        if not ready:
            install(plan, venv)
        took = '' if ready else f' (took {clock(time.monotonic() - start)}); next: make demo'
        print(f'Environment ready: {venv / "bin" / "python"}, torch {plan.torch}{took}', flush=True)
        return 0
    except SetupError as error:
        print(f'\nsetup_env: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nsetup_env: interrupted. Run it again: what was installed stays.', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
