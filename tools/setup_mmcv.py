"""Gets an mmcv whose compiled operators run under the torch at hand.

From the first of these that works: a wheel kept from an earlier build, OpenMMLab's prebuilt wheel,
a build from source. pip caches a wheel it built under a key without the torch version, and would
later hand out one that was built against another torch: its cache is never used here.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from setup_steps import SetupError, ask, run_step

MMCV = '2.1.0'  # mmdet 3.3.0 refuses 2.2.0 and later
CV2_REMEDY = 'apt install libgl1 libglib2.0-0   (or opencv-python-headless)'

DESCRIBE_BUILD = """
import json, os, sys, sysconfig, torch
ops_on_gpu = torch.version.cuda and (torch.cuda.is_available() or os.getenv('FORCE_CUDA') == '1')
print(json.dumps(dict(torch=torch.__version__, cuda=torch.version.cuda, ops_on_gpu=bool(ops_on_gpu),
                      python='%d.%d' % sys.version_info[:2],
                      include=sysconfig.get_path('include'))))
"""
OPS_WORK = f"""
import torch, mmcv, mmcv.ops
assert mmcv.__version__ == '{MMCV}', 'expected mmcv {MMCV}, got ' + mmcv.__version__
mmcv.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
"""


def version_tuple(version: str) -> tuple[int, ...]:
    """'2.13.0+cpu' -> (2, 13, 0)."""
    return tuple(int(part) for part in version.split('+')[0].split('.'))


def cuda_tag(cuda: str | None) -> str:
    """'12.1' -> 'cu121', None -> 'cpu'."""
    return 'cu' + cuda.replace('.', '') if cuda else 'cpu'


@dataclass(frozen=True)
class Build:
    """What an mmcv build depends on.

    Attributes:
        torch: ``torch.__version__`` with its local part, such as 2.1.2+cu121.
        cuda: The CUDA version of torch, None for a CPU build of torch.
        ops_on_gpu: Whether a source build compiles the CUDA operators.
        python: Such as 3.11.
        include: The folder of Python.h.
    """

    torch: str
    cuda: str | None
    ops_on_gpu: bool
    python: str
    include: str

    @property
    def key(self) -> str:
        """The name of the folder in which a wheel built for this is kept."""
        tag = 'cp' + self.python.replace('.', '')
        return wheel_key(self.torch, tag, cuda_tag(self.cuda if self.ops_on_gpu else None))

    @property
    def prebuilt_index(self) -> str:
        """OpenMMLab's page of wheels for this torch."""
        major, minor = version_tuple(self.torch)[:2]
        place = f'{cuda_tag(self.cuda)}/torch{major}.{minor}.0'
        return f'https://download.openmmlab.com/mmcv/dist/{place}/index.html'


def wheel_key(torch: str, python_tag: str, accelerator: str) -> str:
    """Names all that decides whether a built wheel can be used again."""
    return f'mmcv{MMCV}-torch{torch}-{python_tag}-{accelerator}'


def wheel_folder(key: str) -> Path:
    """Where built wheels are kept between environments."""
    cache = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(cache) / 'mmkd_fm' / 'wheels' / key


def compiler_problem(python: str, include: str) -> str:
    """What a C++ build for this Python lacks, with the way to get it, or nothing."""
    compiler = shlex.split(os.environ.get('CXX', 'c++'))
    if shutil.which(compiler[0]) is None:
        return (
            f'building mmcv needs a C++ compiler: expected {compiler[0]} on the PATH, found none.\n'
            '    apt install g++   |   dnf install gcc-c++   |   '
            'conda install -c conda-forge cxx-compiler'
        )
    if not Path(include, 'Python.h').is_file():
        return (
            f'building mmcv needs the headers of Python: expected {include}/Python.h, found none.\n'
            f'    apt install python{python}-dev   |   dnf install python{python}-devel   |   '
            f'conda create -n build python={python} (brings them)'
        )
    source = '#include <Python.h>\n#include <optional>\nstd::optional<int> f() { return 1; }\n'
    command = [*compiler, '-std=c++17', '-fsyntax-only', f'-I{include}', '-x', 'c++', '-']
    result = subprocess.run(command, input=source, capture_output=True, text=True)
    if result.returncode == 0:
        return ''
    return (
        f'building mmcv needs a compiler for C++17 (gcc 9 or newer). {shlex.join(command)} says:\n'
        f'{result.stderr[-800:]}'
    )


def nvcc_problem(cuda: str) -> str:
    """What a build of the CUDA operators lacks, with the way to get it, or nothing."""
    home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
    nvcc = shutil.which(str(Path(home, 'bin', 'nvcc')) if home else 'nvcc')
    found = 'none'
    if nvcc:
        text = subprocess.run([nvcc, '--version'], capture_output=True, text=True).stdout
        release = ''.join(re.findall(r'release ([\d.]+),', text))
        if release.split('.')[0] == cuda.split('.')[0]:
            return ''
        found = f'{nvcc} of CUDA {release}'
    return (
        f'building mmcv for this GPU needs the nvcc of CUDA {cuda}, like torch; found {found}.\n'
        f'  Install that CUDA toolkit and set CUDA_HOME to its folder.\n'
        '  For operators on the CPU only, hide the GPU: CUDA_VISIBLE_DEVICES= make env'
    )


def build_variables() -> dict[str, str]:
    """The environment variables of the source build; what the user set stays."""
    env = {**os.environ, 'MMCV_WITH_OPS': '1'}
    if 'CFLAGS' not in env:
        env['CFLAGS'] = '-O1 -g0'
        print('    CFLAGS is not set: using "-O1 -g0", which halves the time of the build')
    if 'MAX_JOBS' not in env:
        has_affinity = hasattr(os, 'sched_getaffinity')
        cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
        memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30
        env['MAX_JOBS'] = str(max(1, min(cores, round(memory / 2))))  # 2 GiB for each compiler
    return env


def build_wheel(python: Path, build: Build, log: Path) -> Path:
    """Builds mmcv from source and keeps the wheel.

    Raises:
        SetupError: Something is missing, or the build failed.
    """
    problem = compiler_problem(build.python, build.include)
    if build.ops_on_gpu:
        problem = problem or nvcc_problem(build.cuda)
    if problem:
        raise SetupError(problem)
    env = build_variables()
    print(f'    building from source, {env["MAX_JOBS"]} jobs: 5 to 15 min on two cores', flush=True)
    folder = wheel_folder(build.key)
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(python), '-m', 'pip', 'wheel', '-v', '--no-build-isolation', '--no-deps']
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        to = ['--no-cache-dir', '--no-binary', 'mmcv', '-w', fresh]
        run_step([*command, *to, f'mmcv=={MMCV}'], log, env)
        (wheel,) = Path(fresh).glob('mmcv-*.whl')
        return wheel.replace(folder / wheel.name)


def sources(python: Path, build: Build, log: Path) -> Iterator[tuple[str, list[str], Path | None]]:
    """The sources of mmcv, best first: a name, what to hand to pip, what to remove if it is broken.

    The next one is asked for only where the one before did not work.
    """
    for wheel in sorted(wheel_folder(build.key).glob('mmcv-*.whl')):
        yield f'kept wheel {wheel}', [str(wheel)], wheel
        print(f'    it {"can not be installed" if wheel.exists() else "is broken: removed"}')
    if version_tuple(build.torch) < (2, 2):  # for newer torch there is none below mmcv 2.2.0
        index = build.prebuilt_index
        quick = ['--timeout', '10', '--retries', '0', '--only-binary', 'mmcv']
        yield f"OpenMMLab's wheel from {index}", [*quick, '-f', index, f'mmcv=={MMCV}'], None
        print('    not to be had here')
    wheel = build_wheel(python, build, log)
    yield f'built and kept: {wheel}', [str(wheel)], None


def install_mmcv(python: Path, log: Path) -> None:
    """Installs the first mmcv whose compiled operators run.

    Raises:
        SetupError: None does.
    """
    if ask(python, OPS_WORK).returncode == 0:
        print('    already there', flush=True)
        return
    answer = ask(python, DESCRIBE_BUILD)
    if answer.returncode != 0:
        raise SetupError(f'torch is installed but does not import:\n{answer.stderr[-800:]}')
    build = Build(**json.loads(answer.stdout))
    answer = ask(python, 'import cv2')  # mmcv imports it: without it, every mmcv would look broken
    if answer.returncode != 0:
        error = answer.stderr[-800:].rstrip()
        raise SetupError(f'mmcv needs opencv, which does not import:\n{error}\n  {CV2_REMEDY}')
    pip = [str(python), '-m', 'pip', 'install', '--force-reinstall', '--no-deps', '--no-cache-dir']
    for name, what, broken in sources(python, build, log):
        print(f'    {name}', flush=True)
        problem = ''
        try:
            run_step([*pip, *what], log)
        except SetupError as error:
            problem = f'mmcv could not be installed: {error}'
            continue
        if ask(python, OPS_WORK).returncode == 0:
            return
        if broken:
            broken.unlink()
    if problem:  # with the last of them, the one that was built
        raise SetupError(problem)
    error = ask(python, OPS_WORK).stderr[-800:]
    raise SetupError(f'mmcv was built but does not work:\n{error}\n  The whole log: {log}')
