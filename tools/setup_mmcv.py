"""Gets an mmcv whose compiled operators run under the torch at hand: kept wheel, prebuilt wheel, or source build."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from setup_steps import SetupError, ask, run_step

MMCV = '2.1.0'  # mmdet 3.3.0 refuses 2.2.0 and later


def version_tuple(version: str) -> tuple[int, ...]:
    """'2.13.0+cpu' -> (2, 13, 0)."""
    return tuple(int(part) for part in version.split('+')[0].split('.'))


def wheel_key(torch_version: str, python_tag: str, accelerator: str) -> str:
    """The folder of a built mmcv wheel. pip's own cache leaves the torch version out, so it is never used.

    Args:
        torch_version: ``torch.__version__`` with its local part, such as 2.1.2+cu121.
        python_tag: such as cp311.
        accelerator: cpu or the CUDA version the ops were compiled for, such as cu121.
    """
    return f'mmcv{MMCV}-torch{torch_version}-{python_tag}-{accelerator}'


def wheel_folder(key: str) -> Path:
    """Where built wheels are kept between environments."""
    cache = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(cache) / 'mmkd_fm' / 'wheels' / key


def prebuilt_index(torch_version: str, torch_cuda: str | None) -> str:
    """OpenMMLab's page of mmcv wheels for this torch."""
    build = 'cu' + torch_cuda.replace('.', '') if torch_cuda else 'cpu'
    major, minor = version_tuple(torch_version)[:2]
    return f'https://download.openmmlab.com/mmcv/dist/{build}/torch{major}.{minor}.0/index.html'


TORCH_BUILD = """
import json, sys, sysconfig, torch
print(json.dumps(dict(version=torch.__version__, cuda=torch.version.cuda, gpu=torch.cuda.is_available(),
                      tag='cp%d%d' % sys.version_info[:2], include=sysconfig.get_path('include'))))
"""
OPS_WORK = """
import torch, mmcv, mmcv.ops
assert mmcv.__version__ == '{MMCV}', mmcv.__version__
mmcv.ops.nms(torch.tensor([[0., 0., 1., 1.]]), torch.ones(1), 0.5)
""".replace('{MMCV}', MMCV)


def compiler_problem(include: str) -> str:
    """Compiles three lines against Python's headers; says what is missing, or nothing."""
    compiler = shlex.split(os.environ.get('CXX', 'c++'))
    if shutil.which(compiler[0]) is None:
        return (
            f'building mmcv needs a C++ compiler: expected {compiler[0]!r} on the PATH, found none. Install one:\n'
            '    apt install g++   |   dnf install gcc-c++   |   conda install -c conda-forge cxx-compiler'
        )
    minor = sys.version_info[1]
    if not Path(include, 'Python.h').is_file():
        return (
            f'building mmcv needs the headers of Python: expected {include}/Python.h, found none. Install them:\n'
            f'    apt install python3.{minor}-dev   |   dnf install python3.{minor}-devel   |   '
            f'a conda Python brings them: conda create -n py3{minor} python=3.{minor}'
        )
    source = '#include <Python.h>\n#include <optional>\nstd::optional<int> works() { return 1; }\n'
    command = [*compiler, '-std=c++17', '-fsyntax-only', f'-I{include}', '-x', 'c++', '-']
    result = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return ''
    return f'building mmcv needs a compiler for C++17; {shlex.join(command)} says:\n{result.stderr[-800:]}'


def nvcc_problem(torch_cuda: str) -> str:
    """The CUDA ops are compiled by an nvcc of torch's own CUDA; says what is missing, or nothing."""
    home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
    nvcc = shutil.which(str(Path(home, 'bin', 'nvcc'))) if home else shutil.which('nvcc')
    found = 'none'
    if nvcc:
        output = subprocess.run(
            [nvcc, '--version'], capture_output=True, text=True, check=False
        ).stdout
        match = re.search(r'release (\d+)\.', output)
        if match and match.group(1) == torch_cuda.split('.')[0]:
            return ''
        found = f'{nvcc} ({match.group(0).rstrip(".") if match else "version unknown"})'
    return (
        f'building mmcv for this GPU needs the nvcc of CUDA {torch_cuda}, like torch; found {found}. '
        f'Install that CUDA toolkit and set CUDA_HOME to it:\n'
        f'    conda install -c conda-forge cuda-nvcc={torch_cuda} cuda-cudart-dev={torch_cuda}\n'
        '  For ops on the CPU only, hide the GPU: CUDA_VISIBLE_DEVICES= make env'
    )


def build_environment() -> dict[str, str]:
    """The variables of the source build; what the user set stays."""
    env = dict(os.environ, MMCV_WITH_OPS='1')
    if 'CFLAGS' not in env:
        env['CFLAGS'] = '-O1 -g0'
        print('    CFLAGS is not set: using "-O1 -g0", which halves the time to build', flush=True)
    if 'MAX_JOBS' not in env:
        cores = (
            len(os.sched_getaffinity(0))
            if hasattr(os, 'sched_getaffinity')
            else os.cpu_count() or 1
        )
        memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2**30
        env['MAX_JOBS'] = str(
            max(1, min(cores, memory // 2))
        )  # a compiler process takes up to 2 GiB
    return env


def build_mmcv(python: Path, log: Path, build: dict, folder: Path) -> Path:
    """Builds the wheel from source and keeps it."""
    cuda_ops = build['gpu'] or os.environ.get('FORCE_CUDA') == '1'
    problem = compiler_problem(build['include']) or (
        cuda_ops and build['cuda'] and nvcc_problem(build['cuda'])
    )
    if problem:
        raise SetupError(problem)
    env = build_environment()
    print(
        f'  building mmcv {MMCV} from source with {env["MAX_JOBS"]} jobs: 5 to 15 min on two cores',
        flush=True,
    )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        command = [
            str(python),
            '-m',
            'pip',
            'wheel',
            '-v',
            '--no-build-isolation',
            '--no-deps',
            '--no-cache-dir',
        ]
        run_step([*command, '--no-binary', 'mmcv', '-w', fresh, f'mmcv=={MMCV}'], log, env)
        (wheel,) = Path(fresh).glob('mmcv-*.whl')
        return wheel.replace(folder / wheel.name)


def mmcv_sources(python: Path, log: Path, build: dict) -> Iterator[tuple[str, list[str]]]:
    """The places to have mmcv from, best first: a name and what to give to pip; a broken one is asked to go on."""
    accelerator = 'cpu'
    if build['cuda'] and (build['gpu'] or os.environ.get('FORCE_CUDA') == '1'):
        accelerator = 'cu' + build['cuda'].replace('.', '')
    folder = wheel_folder(wheel_key(build['version'], build['tag'], accelerator))
    for wheel in sorted(folder.glob('mmcv-*.whl')):
        yield f'the wheel kept from an earlier build ({wheel})', [str(wheel)]
        print('    it does not work here, so it is removed', flush=True)
        wheel.unlink()
    if version_tuple(build['version']) < (2, 2):
        index = prebuilt_index(build['version'], build['cuda'])
        flags = ['--only-binary', 'mmcv', '--timeout', '10', '--retries', '0', '-f', index]
        yield f"OpenMMLab's wheel ({index})", [*flags, f'mmcv=={MMCV}']
        print('    not to be had here', flush=True)
    wheel = build_mmcv(python, log, build, folder)
    yield f'the wheel just built, kept as {wheel}', [str(wheel)]


def install_mmcv(python: Path, log: Path) -> None:
    """Installs the first mmcv whose compiled operators run under this torch."""
    if ask(python, OPS_WORK).returncode == 0:
        print('    already there', flush=True)
        return
    answer = ask(python, TORCH_BUILD)
    if answer.returncode != 0:
        raise SetupError(f'torch was installed but does not import:\n{answer.stderr[-800:]}')
    pip = [str(python), '-m', 'pip', 'install', '--force-reinstall', '--no-deps', '--no-cache-dir']
    for name, what in mmcv_sources(python, log, json.loads(answer.stdout)):
        print(f'  mmcv {MMCV}: {name}', flush=True)
        try:
            run_step([*pip, *what], log)
        except SetupError:
            continue  # the next source; the last one is checked below
        if ask(python, OPS_WORK).returncode == 0:
            return
    raise SetupError(
        f'mmcv was built but does not work:\n{ask(python, OPS_WORK).stderr[-800:]}\n  The whole log: {log}'
    )
