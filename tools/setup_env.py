#!/usr/bin/env python3
"""Makes a virtual environment in which everything of this project runs.

In order: a venv; torch; torchvision and mmpretrain where they fit; mmengine and mmdet; mmcv; this
project, editable, with what its tests need. mmcv is taken from the first of these that works: a
wheel that an earlier run built (kept under $XDG_CACHE_HOME/mmkd_fm/wheels), OpenMMLab's prebuilt
wheel, a build from source.

It needs nothing but the Python that runs it (3.9 to 3.12), can be interrupted and run again at any
time, and does nothing when the environment is already as it should be. Nothing outside the venv
and that cache folder is changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from setup_mmcv import MMCV, install_mmcv, version_tuple, wheel_folder, wheel_key
from setup_steps import SetupError, ask, clock, run_step

ROOT = Path(__file__).resolve().parents[1]

OLDEST_PYTHON, NEWEST_PYTHON = (3, 9), (3, 12)
DEFAULT_TORCH = '2.1.2'  # the newest line for which OpenMMLab publishes mmcv 2.1.0
NEWEST_TORCH = '2.13.0'  # the newest on which mmcv 2.1.0 was seen to build
BUILD_TOOLS = ('pip>=23.1', 'setuptools>=64,<81', 'wheel', 'ninja', 'psutil')
MM_SET = ('mmengine==0.10.7', 'mmdet==3.3.0', 'pycocotools')
MMPRETRAIN = 'mmpretrain==1.2.0'


def dotted(version: tuple[int, ...]) -> str:
    """(3, 11) -> '3.11'."""
    return '.'.join(map(str, version))


def python_problem(python: tuple[int, int]) -> str:
    """What is wrong with this Python as the base of the environment, or nothing."""
    if OLDEST_PYTHON <= python <= NEWEST_PYTHON:
        return ''
    problem = (
        f'expected Python {dotted(OLDEST_PYTHON)} to {dotted(NEWEST_PYTHON)}, '
        f'got {dotted(python)} ({sys.executable}).\n'
    )
    for name in ('python3.11', 'python3.10', 'python3.9', 'python3.12'):
        if (
            shutil.which(name)
            and subprocess.run([name, '-c', ''], stderr=subprocess.DEVNULL).returncode == 0
        ):
            return problem + f'  Use one that is here: make env BASE_PYTHON={name}'
    return problem + (
        '  Install one, then run: make env BASE_PYTHON=python3.11\n'
        '    apt install python3.11-venv python3.11-dev   |   dnf install python3.11-devel   |   '
        'conda create -n py311 python=3.11'
    )


def default_torch(python: tuple[int, int]) -> str:
    """The torch of the default set: 2.1.2 has no wheels for Python 3.12."""
    return DEFAULT_TORCH if python < (3, 12) else NEWEST_TORCH


def torchvision_for(torch: str) -> str:
    """The torchvision for a torch, 0.N.P for 2.(N-15).P: '2.1.2' -> '0.16.2'."""
    _, minor, patch = version_tuple(torch)
    return f'0.{minor + 15}.{patch}'


@dataclass(frozen=True)
class Plan:
    """The pinned set for one torch and one Python.

    Raises:
        SetupError: There is no such set.
    """

    torch: str
    python: tuple[int, int]

    def __post_init__(self):
        if not re.fullmatch(r'\d+\.\d+\.\d+', self.torch):
            raise SetupError(
                f'expected a whole torch version such as {NEWEST_TORCH}, got {self.torch!r}'
            )
        torch = version_tuple(self.torch)
        if torch < (2, 1):
            raise SetupError(f'expected torch 2.1 or newer, got {self.torch}')
        if torch < (2, 2) and self.python >= (3, 12):
            raise SetupError(
                f'torch {self.torch} has no wheels for Python {dotted(self.python)}. '
                f'Use TORCH={NEWEST_TORCH} or BASE_PYTHON=python3.11'
            )
        if torch >= (2, 9) and self.python < (3, 10):
            raise SetupError(
                f'torch {self.torch} needs Python 3.10 or newer, got {dotted(self.python)}. '
                f'Use TORCH={DEFAULT_TORCH} or BASE_PYTHON=python3.11'
            )

    @property
    def torch_set(self) -> tuple[str, ...]:
        """Torch, and the numpy and opencv it works with: before 2.3 it is built for numpy 1."""
        if version_tuple(self.torch) < (2, 3):
            return (f'torch=={self.torch}', 'numpy<2', 'opencv-python<4.12')
        return (f'torch=={self.torch}', 'numpy', 'opencv-python')

    @property
    def torchvision(self) -> str:
        """The torchvision for this torch."""
        return f'torchvision=={torchvision_for(self.torch)}'

    @property
    def constraints(self) -> tuple[str, ...]:
        """What no step may change."""
        mm_set = (*MM_SET, MMPRETRAIN, f'mmcv=={MMCV}')
        return (*self.torch_set, self.torchvision, *mm_set, 'setuptools<81')

    def key(self, venv: Path, setup_py: Path = ROOT / 'setup.py') -> str:
        """A hash of all that the environment depends on; another key means: install again."""
        parts = [*BUILD_TOOLS, *self.constraints, dotted(self.python), str(venv)]
        return hashlib.sha256('\n'.join([*parts, setup_py.read_text()]).encode()).hexdigest()[:16]


INSTALLED = """
import importlib.metadata, importlib.util, json, pathlib, sys
spec = importlib.util.find_spec('mmcv')
assert any(pathlib.Path(spec.origin).parent.glob('_ext*')), 'mmcv has no compiled operators'
print(json.dumps({name: importlib.metadata.version(name) for name in sys.argv[1:]}))
"""
WATCHED = ('torch', 'numpy', 'mmcv', 'mmengine', 'mmdet', 'mmkd_fm', 'setuptools', 'pytest', 'ruff')


def installed(venv: Path) -> dict[str, str] | None:
    """The versions of the watched packages, or None where something is missing."""
    python = venv / 'bin' / 'python'
    answer = ask(python, INSTALLED, *WATCHED) if python.exists() else None
    return json.loads(answer.stdout) if answer and answer.returncode == 0 else None


def stamp_file(venv: Path) -> Path:
    """The file that says that an environment is complete."""
    return venv / 'mmkd_fm-env.json'


def is_ready(venv: Path, key: str) -> bool:
    """Whether an earlier run finished this very set and no version changed since (a second)."""
    try:
        stamp = json.loads(stamp_file(venv).read_text())
    except (OSError, ValueError):
        return False
    return stamp == {'key': key, 'versions': installed(venv)}


def make_venv(venv: Path, version: tuple[int, int]) -> Path:
    """Creates the venv where there is none; never deletes one that was there before."""
    python = venv / 'bin' / 'python'
    if not venv.exists():
        try:
            with tempfile.TemporaryDirectory() as folder:
                run_step([sys.executable, '-m', 'venv', str(venv)], Path(folder, 'log'))
        except BaseException as error:  # an interrupt too: the next run would refuse half a venv
            shutil.rmtree(venv, ignore_errors=True)
            if not isinstance(error, SetupError):
                raise
            output = str(error).rpartition('\n')[0]  # without the place of the log, which is gone
            raise SetupError(
                f'{sys.executable} cannot make a virtual environment, {output}\n'
                f'  Install its venv module: apt install python{dotted(version)}-venv'
            ) from None
    try:
        answer = ask(python, 'import pip, sys; print(*sys.version_info[:2], sep=".")')
        got = answer.stdout.strip()
    except OSError:  # there is no bin/python, or it points nowhere
        got = ''
    if got != dotted(version):
        raise SetupError(
            f'{venv} should hold Python {dotted(version)} with pip, '
            f'it holds {got or "none that starts and has pip"}.\n'
            f'  Remove it and run this again: rm -r {venv}'
        )
    return python


def misfit(output: str) -> str:
    """The line in which pip says that no such version can be had, or nothing."""
    if 'connection broken' in output:  # pip then says the same of all packages
        return ''
    said = re.search('ERROR: (No matching distribution|ResolutionImpossible).*', output)
    return said.group() if said else ''


def install_torchvision(plan: Plan, pip: list[str], log: Path) -> tuple[str, ...]:
    """Installs torchvision if it fits the torch at hand; returns what may stand on top of it.

    Raises:
        SetupError: pip failed for another reason, such as the network: it may work the next time.
    """
    python = Path(pip[0])
    works = (
        'import torch, torchvision\n'
        'torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)'
    )
    try:
        run_step([*pip, plan.torchvision], log)
    except SetupError as error:
        reason = misfit(str(error))
        if not reason:
            raise
    else:
        answer = ask(python, works)
        if answer.returncode == 0:
            return (MMPRETRAIN,)
        reason = (answer.stderr.strip() or f'exit code {answer.returncode}').splitlines()[-1]
        run_step([str(python), '-m', 'pip', 'uninstall', '-y', 'torchvision'], log)
    print(f'    skipped, it does not fit this torch: {reason}')
    print(f'    So {MMPRETRAIN} is left out too. Detection needs neither.', flush=True)
    return ()


def install(plan: Plan, venv: Path) -> None:
    """Brings the environment to the plan; a step that is already done costs seconds."""
    print(f'Making {venv}: 5 min the first time, 15 where mmcv has to be built.')
    print('Can be interrupted (Ctrl-C) and run again: what was installed stays.', flush=True)
    python = make_venv(venv, plan.python)
    stamp_file(venv).unlink(missing_ok=True)
    log = venv / 'setup.log'
    log.unlink(missing_ok=True)
    constraints = venv / 'constraints.txt'
    constraints.write_text('\n'.join(plan.constraints) + '\n')
    pip = [str(python), '-m', 'pip', 'install', '-c', str(constraints)]

    def title(number: int, text: str) -> None:
        print(f'[{number}/6] {text}', flush=True)

    title(1, 'build tools (10 s)')
    run_step([*pip, *BUILD_TOOLS], log)
    title(2, f'{" ".join(plan.torch_set)} (3 min)')
    if sys.platform == 'linux':
        print('    the default build is the one for CUDA: 2.5 GB to download, 5 GB of disk')
    run_step([*pip, *plan.torch_set], log)
    title(3, f'{plan.torchvision}, for classification (10 s)')
    on_top = install_torchvision(plan, pip, log)
    title(4, f'{" ".join([*MM_SET, *on_top])} (1 min)')
    run_step([*pip, *MM_SET, *on_top], log)
    title(5, f'mmcv {MMCV} (10 s, or 5 to 15 min where it has to be built)')
    install_mmcv(python, log)
    title(6, 'mmkd_fm, editable, with pytest and ruff (20 s)')
    run_step([*pip, '--no-build-isolation', '-e', f'{ROOT}[dev]'], log)

    check = ask(python, 'import mmcv.ops, mmdet.models')
    versions = installed(venv)
    if check.returncode != 0 or versions is None:
        raise SetupError(
            f'all steps ran, but it does not import:\n{check.stderr[-800:]}\n  The log: {log}'
        )
    stamp_file(venv).write_text(json.dumps({'key': plan.key(venv), 'versions': versions}))


def describe(plan: Plan, venv: Path) -> str:
    """The plan in words, for --dry-run."""
    key = wheel_key(f'{plan.torch}+*', 'cp{}{}'.format(*plan.python), '*')
    state = 'ready' if is_ready(venv, plan.key(venv)) else 'to be made or completed'
    kept = sorted(map(str, wheel_folder(key).parent.glob(f'{key}/*.whl')))
    prebuilt = "OpenMMLab's wheel, " if version_tuple(plan.torch) < (2, 2) else ''
    return '\n'.join(
        [
            f'base Python   {dotted(plan.python)} ({sys.executable})',
            f'environment   {venv} ({state})',
            f'build tools   {" ".join(BUILD_TOOLS)}',
            f'torch         {" ".join(plan.torch_set)}',
            f'torchvision   {plan.torchvision} {MMPRETRAIN}, left out where they do not fit',
            f'OpenMMLab     {" ".join(MM_SET)}',
            f'mmcv          {MMCV}: kept wheel, {prebuilt}source build',
            f'kept wheels   {" ".join(kept) or f"none in {wheel_folder(key)}"}',
            f'project       {ROOT}[dev], editable',
        ]
    )


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--torch', help=f'version (default {DEFAULT_TORCH}, on Python 3.12 {NEWEST_TORCH})'
    )
    parser.add_argument(
        '--venv', type=Path, help='folder (default .venv, with --torch .venv-torch<version>)'
    )
    parser.add_argument('--dry-run', action='store_true', help='print the plan, change nothing')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the steps; returns the exit code."""
    args = parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # which nohup asks for
            signal.signal(number, signal.default_int_handler)  # ends the step, as Ctrl-C does
    start = time.monotonic()
    python = sys.version_info[:2]
    try:
        if python_problem(python):
            raise SetupError(python_problem(python))
        plan = Plan(args.torch or default_torch(python), python)
        venv = args.venv or ROOT / (f'.venv-torch{args.torch}' if args.torch else '.venv')
        venv = venv.absolute()
        if args.dry_run:
            print(describe(plan, venv))
        elif is_ready(venv, plan.key(venv)):
            print(f'Environment ready: {venv} (torch {plan.torch})', flush=True)
        else:
            install(plan, venv)
            took = clock(time.monotonic() - start)
            print(f'Environment ready: {venv} (torch {plan.torch}), took {took}. Next: make demo')
    except SetupError as error:
        print(f'\nsetup_env: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nsetup_env: interrupted. Run it again: what was installed stays.', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
