"""What doctor.py looks for: the known traps of this stack, each with its remedy."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

PIP = f'{sys.executable} -m pip'
BUILD_MMCV = (
    f"{PIP} install 'setuptools<81' wheel ninja psutil && "
    f'{PIP} uninstall -y mmcv mmcv-lite mmcv-full && '
    f'MMCV_WITH_OPS=1 {PIP} install --no-build-isolation --no-deps --no-cache-dir '
    '--no-binary mmcv mmcv==2.1.0'
)

# name -> at least, below, the version to install
WINDOWS = {
    'mmcv': ((2, 0, 0), (2, 2, 0), BUILD_MMCV),
    'mmengine': ((0, 10, 4), (1, 0, 0), f"{PIP} install 'mmengine>=0.10.4,<1'"),
    'mmdet': ((3, 3, 0), (4, 0, 0), f"{PIP} install 'mmdet>=3.3,<4'"),
}


@dataclass(frozen=True)
class Facts:
    """All that the checks look at.

    Attributes:
        python: Version, such as (3, 11).
        versions: Name in DISTRIBUTIONS -> version, '' where it is not installed.
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
    """Python 3.9 to 3.12."""
    if (3, 9) <= facts.python <= (3, 12):
        return OK
    got = '.'.join(map(str, facts.python))
    return Finding('warning', f'tested with Python 3.9 to 3.12, got {got}', 'use Python 3.11')


def torch_works(facts: Facts) -> Finding:
    """Torch is there and imports."""
    if facts.python < (3, 12):
        what = "torch==2.1.2 torchvision==0.16.2 'numpy<2' 'opencv-python<4.12'"
    else:
        what = 'torch==2.13.0'
    remedy = f'{PIP} install {what}'
    if not facts.versions['torch']:
        return Finding('broken', 'torch is not installed', remedy)
    if facts.imports.get('torch'):
        return Finding('broken', f'torch does not import: {facts.imports["torch"]}', remedy)
    return OK


def numpy_matches(facts: Facts) -> Finding:
    """Wheels built for numpy 1 do not work with numpy 2; torch is built for numpy 2 since 2.3."""
    numpy_1_error = (
        'numpy.dtype size changed|compiled using NumPy 1|_ARRAY_API|numpy.core.multiarray'
    )
    victims = [name for name, error in facts.imports.items() if re.search(numpy_1_error, error)]
    if facts.release('numpy') >= (2,) and facts.versions['torch']:
        if facts.release('torch') < (2, 3):
            victims.append(f'torch {facts.versions["torch"]}')
    if not victims:
        return OK
    text = f'numpy {facts.versions["numpy"]} with what is built for another: {", ".join(victims)}'
    return Finding('broken', text, f"{PIP} install 'numpy<2' 'opencv-python<4.12'")


def version_window(name: str):
    """Makes the check of one entry of WINDOWS."""
    lowest, bound, remedy = WINDOWS[name]

    def check(facts: Facts) -> Finding:
        expected = f'{name} >={".".join(map(str, lowest))},<{".".join(map(str, bound))}'
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
    return Finding('broken', text, BUILD_MMCV)


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


def imports(module: str, distribution: str, status: str, remedy: str):
    """Makes the check that a module imports.

    Args:
        module: A name in doctor_probe.MODULES.
        distribution: A name in DISTRIBUTIONS.
        status: How bad it is if it does not.
        remedy: What to do then.
    """

    def check(facts: Facts) -> Finding:
        error = facts.imports.get(module)
        if error:
            return Finding(status, f'{module} does not import: {error}', remedy)
        if not facts.versions[distribution] and distribution not in OPTIONAL:
            return Finding(status, f'{distribution} is not installed', remedy)
        return OK

    check.__name__ = f'import_{module}'
    return check


def torchvision_for_mmpretrain(facts: Facts) -> Finding:
    """Mmpretrain imports torchvision without saying so; torchvision belongs to one torch."""
    torch = facts.release('torch')
    if len(torch) < 2:
        return OK
    expected = f'0.{torch[1] + 15}' if torch[0] == 2 else ''
    got = facts.versions['torchvision']
    remedy = f"{PIP} install --no-deps 'torchvision=={expected}.*'"
    if facts.versions['mmpretrain'] and not got:
        text = 'mmpretrain does not import without torchvision, which is not installed'
        return Finding('warning', text, remedy)
    if got and expected and not got.startswith(f'{expected}.'):
        text = f'torch {facts.versions["torch"]} needs torchvision {expected}, got {got}'
        return Finding('warning', text, remedy)
    return OK


def transformers_version(facts: Facts) -> Finding:
    """With transformers there, mmpretrain loads models that need an old one."""
    if not facts.versions['mmpretrain'] or facts.release('transformers') < (4, 56):
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
    text = (
        'OMP_NUM_THREADS is 1' if got else 'OMP_NUM_THREADS is not set, OpenMMLab may set it to 1'
    )
    text += f': training on the CPU then uses one of {facts.cores} cores'
    return Finding('note', text, f'export OMP_NUM_THREADS={facts.cores}')


def compiler(facts: Facts) -> Finding:
    """Mmcv may have to be built from source."""
    if not facts.compiler:
        return OK
    works = facts.imports.get('mmcv.ops') == ''
    what, _, remedy = facts.compiler.partition('\n')
    text = what + (' It is not needed now: mmcv is built.' if works else '')
    return Finding('note' if works else 'broken', text, ' '.join(remedy.split()))


CHECKS = (
    python_version,
    torch_works,
    numpy_matches,
    setuptools_version,
    version_window('mmcv'),
    version_window('mmengine'),
    version_window('mmdet'),
    imports(
        'cv2',
        'opencv',
        'broken',
        f'{PIP} uninstall -y opencv-python && {PIP} install opencv-python-headless'
        '   (where libGL is missing, else install opencv-python again)',
    ),
    imports(
        'pycocotools.mask',
        'pycocotools',
        'broken',
        f'{PIP} install --force-reinstall --no-deps pycocotools',
    ),
    mmcv_operators,
    mmcv_on_gpu,
    compiler,
    imports('mmengine', 'mmengine', 'broken', WINDOWS['mmengine'][2]),
    imports(
        'mmdet.models',
        'mmdet',
        'broken',
        f"{PIP} install --force-reinstall --no-deps 'mmdet>=3.3,<4'   (after the points above)",
    ),
    imports('mmkd_fm', 'mmkd_fm', 'broken', 'mend the points above first'),
    adafactor,
    weights_only,
    weights_only_switch,
    torchvision_for_mmpretrain,
    transformers_version,
    imports(
        'mmpretrain.models',
        'mmpretrain',
        'warning',
        f'{PIP} uninstall -y mmpretrain   (detection does not need it; else mend the points above)',
    ),
    cpu_threads,
)


