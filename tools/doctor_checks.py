"""What doctor.py looks for: the known traps of this stack, each with its remedy."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from setup_env import NEWEST_PYTHON, OLDEST_PYTHON, Plan, default_torch, dotted, torchvision_for
from setup_mmcv import CV2_REMEDY, MMCV

PIP = f'{sys.executable} -m pip'
BUILD_MMCV = (
    f"{PIP} install 'setuptools<81' wheel ninja psutil && "
    f'{PIP} uninstall -y mmcv mmcv-lite mmcv-full && '
    f'MMCV_WITH_OPS=1 {PIP} install --no-build-isolation --no-deps --no-cache-dir '
    f'--no-binary mmcv mmcv=={MMCV}'
)

# name -> at least, below, remedy
WINDOWS = {
    'torch': ((2, 1, 0), (3, 0, 0), 'make env'),
    'mmcv': ((2, 0, 0), (2, 2, 0), BUILD_MMCV),
    'mmengine': ((0, 10, 4), (1, 0, 0), f"{PIP} install 'mmengine>=0.10.7,<1'"),
    'mmdet': ((3, 3, 0), (4, 0, 0), f"{PIP} install 'mmdet>=3.3,<4'"),
}


@dataclass(frozen=True)
class Facts:
    """All that the checks look at.

    Attributes:
        python: Version, such as (3, 11).
        versions: Name in doctor.DISTRIBUTIONS -> version, '' where it is not installed.
        environ: The environment variables.
        imports: Module -> '' if it imports, else the error. Not there: it could not be tried.
        ops: (operator, device) -> '' if it works, else the error.
        torch_build: ``torch.__version__``.
        torch_cuda: The CUDA version of torch, '' for a CPU build.
        mmcv_cuda: The CUDA version of mmcv's operators, or 'not available'.
        gpu: A description, '' where there is none.
        cores: The number of CPU cores.
        compiler: What a C++ build lacks, '' if nothing.
    """

    python: tuple[int, int]
    versions: Mapping[str, str]
    environ: Mapping[str, str] = field(default_factory=dict)
    imports: Mapping[str, str] = field(default_factory=dict)
    ops: Mapping[tuple[str, str], str] = field(default_factory=dict)
    torch_build: str = ''
    torch_cuda: str = ''
    mmcv_cuda: str = ''
    gpu: str = ''
    cores: int = 1
    compiler: str = ''

    def release(self, name: str) -> tuple[int, ...]:
        """(2, 1, 0) of '2.1.0rc1+cpu'; () where it is not installed, which is below everything."""
        return tuple(map(int, re.findall(r'(?:^|\.)(\d+)', self.versions[name].split('+')[0])[:3]))


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        status: One of STATUSES, or ok.
        text: What was expected and what is there.
        remedy: What to type.
    """

    status: str
    text: str
    remedy: str = ''


OK = Finding('ok', '')
STATUSES = ('broken', 'warning', 'note')  # the worst first


def python_version(facts: Facts) -> Finding:
    """The versions of Python that this project is tested with."""
    if OLDEST_PYTHON <= facts.python <= NEWEST_PYTHON:
        return OK
    tested = f'Python {dotted(OLDEST_PYTHON)} to {dotted(NEWEST_PYTHON)}'
    return Finding('warning', f'tested with {tested}, got {dotted(facts.python)}', f'use {tested}')


def torch_works(facts: Facts) -> Finding:
    """Torch is there, new enough, and imports."""
    plan = Plan(default_torch(facts.python), facts.python)
    remedy = f'{PIP} install {shlex.join(plan.torch_set)}'
    if facts.imports.get('torch'):
        return Finding('broken', f'torch does not import: {facts.imports["torch"]}', remedy)
    window = version_window('torch')(facts)
    return window if window is OK else replace(window, remedy=remedy)


def numpy_matches(facts: Facts) -> Finding:
    """Wheels built for numpy 1 do not work with numpy 2; torch is built for numpy 2 since 2.3."""
    numpy_1_error = (
        'numpy.dtype size changed|compiled using NumPy 1|_ARRAY_API|numpy.core.multiarray'
    )
    victims = [name for name, error in facts.imports.items() if re.search(numpy_1_error, error)]
    if facts.release('numpy') >= (2,) and () < facts.release('torch') < (2, 3):
        victims.append(f'torch {facts.versions["torch"]}')
    if not victims:
        return OK
    text = f'numpy {facts.versions["numpy"]} with what is built for another: {", ".join(victims)}'
    return Finding('broken', text, f"{PIP} install 'numpy<2' 'opencv-python<4.12'")


def version_window(name: str):
    """Makes the check of one entry of WINDOWS."""
    lowest, bound, remedy = WINDOWS[name]

    def check(facts: Facts) -> Finding:
        expected = f'{name} >={dotted(lowest)},<{dotted(bound)}'
        if not facts.versions[name]:
            return Finding('broken', f'expected {expected}, it is not installed', remedy)
        if not lowest <= facts.release(name) < bound:
            got = facts.versions[name]
            return Finding('broken', f'expected {expected}, got {got}', remedy)
        return OK

    check.__name__ = f'{name}_version'
    return check


def mmcv_operators(facts: Facts) -> Finding:
    """The compiled operators load and give the right results on the CPU."""
    error = facts.imports.get('mmcv') or facts.imports.get('mmcv.ops')
    wrong = [f'{op}: {e}' for (op, device), e in facts.ops.items() if e and device == 'cpu']
    if not error and not wrong:
        return OK
    if error and re.search(r"No module named 'mmcv\._ext'", error):
        text = 'mmcv has no compiled operators (mmcv-lite?)'
    elif error and re.search(r'undefined symbol|cannot open shared object|ended with code', error):
        text = f'mmcv was built against another torch than {facts.torch_build}: {error}'
    else:
        text = f'mmcv does not work: {error or "; ".join(wrong)}'
    return Finding('broken', text, remedy_for(error, BUILD_MMCV))


def mmcv_on_gpu(facts: Facts) -> Finding:
    """Where there is a GPU, the operators are compiled for it."""
    wrong = [f'{op}: {e}' for (op, device), e in facts.ops.items() if e and device == 'cuda']
    if not facts.gpu or not wrong:
        return OK
    text = (
        f'mmcv does not work on the GPU (torch has CUDA {facts.torch_cuda or "none"}, '
        f'mmcv {facts.mmcv_cuda}): {"; ".join(wrong)}'
    )
    remedy = f'install the nvcc of CUDA {facts.torch_cuda}, then: export FORCE_CUDA=1; {BUILD_MMCV}'
    return Finding('broken', text, remedy)


def setuptools_version(facts: Facts) -> Finding:
    """MMEngine finds `mmdet::` configs through pkg_resources, which setuptools 82 dropped."""
    if facts.versions['setuptools'] and facts.release('setuptools') < (81,):
        return OK
    got = facts.versions['setuptools'] or 'none'
    gone = got == 'none' or facts.release('setuptools') >= (82,)
    return Finding(
        'broken' if gone else 'warning',
        f'expected setuptools below 81 (mmengine and mmcv need its pkg_resources), got {got}',
        f"{PIP} install 'setuptools<81'",
    )


def remedy_for(error: str | None, otherwise: str) -> str:
    """What to do about an import error: install the module it names, if it names one."""
    absent = re.search(r"No module named '(\w+)'", error or '')
    return f'{PIP} install {absent.group(1)}' if absent else otherwise


def imports(module: str, status: str, remedy: str):
    """Makes the check that a module imports, if it is there at all.

    Args:
        module: A name in doctor_probe.MODULES.
        status: How bad it is if it does not.
        remedy: What to do then.
    """

    def check(facts: Facts) -> Finding:
        error = facts.imports.get(module)
        if not error:
            return OK
        return Finding(status, f'{module} does not import: {error}', remedy_for(error, remedy))

    check.__name__ = f'import_{module}'
    return check


def installed(name: str, remedy: str):
    """Makes the check that something with no version window is there."""

    def check(facts: Facts) -> Finding:
        if facts.versions[name]:
            return OK
        return Finding('broken', f'{name} is not installed', f'{PIP} install {remedy}')

    check.__name__ = f'{name}_installed'
    return check


def torchvision_for_mmpretrain(facts: Facts) -> Finding:
    """Mmpretrain imports torchvision without declaring it; each belongs to one torch."""
    got = facts.versions['torchvision']
    if facts.release('torch') < (2, 0) or not (got or facts.versions['mmpretrain']):
        return OK
    expected = torchvision_for(facts.versions['torch'])
    if got and facts.release('torchvision')[:2] == tuple(map(int, expected.split('.')[:2])):
        return OK
    text = f'torch {facts.versions["torch"]} and mmpretrain need torchvision {expected}'
    remedy = f'{PIP} install --no-deps torchvision=={expected} pillow'
    return Finding('warning', f'{text}, got {got or "none"}', remedy)


def transformers_version(facts: Facts) -> Finding:
    """With transformers there, mmpretrain loads models that need an old one."""
    works = facts.imports.get('mmpretrain.models') == ''
    if works or not facts.versions['mmpretrain'] or facts.release('transformers') < (4, 56):
        return OK
    got = facts.versions['transformers']
    text = f'mmpretrain does not import with transformers 4.56 or newer, got {got}'
    return Finding('warning', text, f"{PIP} install 'transformers<4.56'   (or uninstall it)")


def adafactor(facts: Facts) -> Finding:
    """MMEngine up to 0.10.5 registers Adafactor twice."""
    old = () < facts.release('mmengine') <= (0, 10, 5)
    if not (old and facts.versions['transformers'] and facts.release('torch') >= (2, 5)):
        return OK
    text = (
        f'mmengine {facts.versions["mmengine"]} registers Adafactor twice where torch 2.5 or newer '
        'and transformers are installed: KeyError at import'
    )
    return Finding('broken', text, f"{PIP} install 'mmengine>=0.10.7,<1'")


def weights_only(facts: Facts) -> Finding:
    """Torch 2.6 reads tensors only unless told otherwise; MMEngine's checkpoints hold more."""
    if facts.release('torch') < (2, 6) or facts.release('mmengine') >= (0, 11):
        return OK
    return Finding(
        'note',
        f'torch {facts.versions["torch"]} refuses the checkpoints of mmengine '
        f"{facts.versions['mmengine']} by itself; mmkd_fm's own loader reads them safely, nothing "
        'has to be set',
    )


def weights_only_switch(facts: Facts) -> Finding:
    """The switch that lets every checkpoint run code."""
    name = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
    if facts.environ.get(name, '').lower() not in ('1', 'y', 'yes', 'true'):
        return OK
    text = f'{name} is set: every checkpoint, also one from elsewhere, may run code when it is read'
    return Finding('warning', text + '. mmkd_fm does not need it', f'unset {name}')


def cpu_threads(facts: Facts) -> Finding:
    """MMEngine sets OMP_NUM_THREADS to 1 in distributed runs, MMDetection with loader workers."""
    if facts.gpu or facts.cores < 2:
        return OK
    got = facts.environ.get('OMP_NUM_THREADS')
    if got and got != '1':
        return OK
    text = 'OMP_NUM_THREADS is 1' if got else 'OMP_NUM_THREADS is unset, OpenMMLab may set it to 1'
    text += f': training on the CPU then uses one of {facts.cores} cores'
    return Finding('note', text, f'export OMP_NUM_THREADS={facts.cores}')


def compiler(facts: Facts) -> Finding:
    """Mmcv may have to be built from source."""
    if not facts.compiler:
        return OK
    works = facts.imports.get('mmcv.ops') == ''
    what, _, remedy = facts.compiler.partition('\n')
    text = what + (' It is not needed now: mmcv is built.' if works else '')
    return Finding('note' if works else 'warning', text, ' '.join(remedy.split()))


MEND_FIRST = 'mend the points above first'
CHECKS = (
    python_version,
    torch_works,
    numpy_matches,
    setuptools_version,
    version_window('mmcv'),
    version_window('mmengine'),
    version_window('mmdet'),
    installed('opencv', "'opencv-python<4.12'   (with numpy 2: opencv-python)"),
    installed('pycocotools', 'pycocotools'),
    imports('cv2', 'broken', CV2_REMEDY),
    imports('pycocotools.mask', 'broken', f'{PIP} install --force-reinstall --no-deps pycocotools'),
    imports('mmengine', 'broken', WINDOWS['mmengine'][2]),
    mmcv_operators,
    mmcv_on_gpu,
    compiler,
    imports('mmdet.models', 'broken', MEND_FIRST),
    imports('mmkd_fm', 'broken', MEND_FIRST),
    adafactor,
    weights_only,
    weights_only_switch,
    torchvision_for_mmpretrain,
    transformers_version,
    imports('torchvision', 'warning', MEND_FIRST),
    imports('mmpretrain.models', 'warning', f'{PIP} uninstall mmpretrain   (not for detection)'),
    cpu_threads,
)
