import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import doctor
import doctor_checks
import mmkd_fm
from doctor_checks import CHECKS, OK, Facts

ROOT = Path(doctor.__file__).parents[1]


def run_doctor(*args, **env):
    command = [sys.executable, str(ROOT / 'tools' / 'doctor.py'), *args]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})


def put_distribution(folder, name, version):
    """The metadata of a distribution, as pip leaves it."""
    info = folder / f'{name}-{version}.dist-info'
    info.mkdir(parents=True)
    (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')


# ------------------------------------------------------------------ whole runs


def test_this_environment_is_in_order():
    result = run_doctor('--json', TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD='')
    report = json.loads(result.stdout)
    assert result.returncode == 0 and report['ok'], report['findings']
    assert report['versions']['mmkd_fm'] == mmkd_fm.__version__
    works = {row['op']: row['cpu'] for row in report['ops']}
    assert works['nms'] == works['roi_align'] == works['deform_conv2d'] == 'works'


def test_setuptools_82_and_mmcv_2_2_are_found_with_their_remedies(tmp_path):
    put_distribution(tmp_path, 'setuptools', '82.0.0')
    put_distribution(tmp_path, 'mmcv', '2.2.0')
    result = run_doctor('--quiet', PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    said = result.stdout
    assert 'expected mmcv >=2.0.0,<2.2.0, got 2.2.0' in said
    assert '--no-binary mmcv mmcv==2.1.0' in said
    assert 'expected setuptools below 81' in said and 'got 82.0.0' in said
    assert "-m pip install 'setuptools<81'" in said


@pytest.mark.parametrize(
    'module, code, text',
    [
        (
            'torch',
            'raise OSError("libcudart.so.12: cannot open")',
            'torch does not import: OSError',
        ),
        ('torch', 'import os; os.abort()', 'torch does not import: the process ended with code -6'),
    ],
)
def test_a_broken_or_crashing_torch_is_a_finding(tmp_path, module, code, text):
    (tmp_path / f'{module}.py').write_text(code)
    result = run_doctor(PYTHONPATH=str(tmp_path))
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    assert text in result.stdout
    assert 'not tried' in result.stdout  # the operators


def test_an_environment_without_anything(tmp_path):
    """A venv without packages stands for a machine on which nothing was installed yet."""
    command = [sys.executable, '-m', 'venv', '--without-pip', str(tmp_path)]
    subprocess.run(command, check=True)
    doctor_py = str(ROOT / 'tools' / 'doctor.py')
    command = [str(tmp_path / 'bin' / 'python'), doctor_py]
    env = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    result = subprocess.run(command, capture_output=True, text=True, env=env)
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    for name in ('torch', 'mmcv', 'mmdet', 'mmengine', 'pycocotools'):
        assert re.search(rf'\[{name}_\w+\].*not installed', result.stdout), name
    assert 'mmdet' in result.stdout.splitlines()[8]  # the plain table: rich is missing too


# ------------------------------------------------------------------ every check


VERSIONS = dict.fromkeys(doctor.DISTRIBUTIONS, '') | {
    'torch': '2.1.2',
    'torchvision': '0.16.2',
    'numpy': '1.26.4',
    'opencv': '4.11.0.86',
    'mmcv': '2.1.0',
    'mmengine': '0.10.7',
    'mmdet': '3.3.0',
    'mmpretrain': '1.2.0',
    'pycocotools': '2.0.7',
    'setuptools': '80.9.0',
    'mmkd_fm': '0.1.0',
}
GOOD = Facts(python=(3, 11), versions=VERSIONS, torch_build='2.1.2+cu121', torch_cuda='12.1')
PROBE_CRASH = 'the process ended with code -11'


def with_versions(**changes):
    return replace(GOOD, versions={**VERSIONS, **changes})


def findings(facts):
    return dict(doctor.diagnose(facts))


def test_a_good_environment_has_no_findings():
    assert findings(GOOD) == {}
    assert findings(with_versions(torchvision='', mmpretrain='')) == {}


@pytest.mark.parametrize(
    'facts, check, status, text, remedy',
    [
        (replace(GOOD, python=(3, 13)), 'python_version', 'warning', 'got 3.13', 'Python 3.9 to'),
        (with_versions(torch=''), 'torch_works', 'broken', 'not installed', 'torch==2.1.2'),
        (with_versions(torch='2.0.1'), 'torch_works', 'broken', 'got 2.0.1', 'torch==2.1.2'),
        (
            replace(with_versions(torch=''), python=(3, 12)),
            'torch_works',
            'broken',
            'not installed',
            'torch==2.13.0',
        ),
        (with_versions(numpy='2.0.1'), 'numpy_matches', 'broken', 'torch 2.1.2', "'numpy<2'"),
        (
            replace(GOOD, imports={'pycocotools.mask': 'ValueError: numpy.dtype size changed'}),
            'numpy_matches',
            'broken',
            'pycocotools.mask',
            "'numpy<2'",
        ),
        (with_versions(setuptools='82.0'), 'setuptools_version', 'broken', '82.0', 'setuptools<81'),
        (with_versions(setuptools=''), 'setuptools_version', 'broken', 'none', 'setuptools<81'),
        (with_versions(setuptools='81.0'), 'setuptools_version', 'warning', '81', 'setuptools<81'),
        (with_versions(mmcv='2.2.0'), 'mmcv_version', 'broken', '2.2.0', 'mmcv==2.1.0'),
        (with_versions(mmcv='1.7.1'), 'mmcv_version', 'broken', '1.7.1', '--no-cache-dir'),
        (with_versions(mmengine='0.10.3'), 'mmengine_version', 'broken', '0.10.3', 'mmengine>='),
        (with_versions(mmdet='2.28.0'), 'mmdet_version', 'broken', '2.28.0', 'mmdet>=3.3,<4'),
        (with_versions(opencv=''), 'opencv_installed', 'broken', 'opencv', 'opencv-python<4.12'),
        (
            replace(GOOD, imports={'cv2': 'ImportError: libGL.so.1: cannot open'}),
            'import_cv2',
            'broken',
            'libGL',
            'apt install libgl1',
        ),
        (
            replace(GOOD, imports={'mmcv.ops': 'ImportError: _ext.so: undefined symbol: _ZN2at'}),
            'mmcv_operators',
            'broken',
            'built against another torch than 2.1.2+cu121',
            '--no-cache-dir',
        ),
        (
            replace(GOOD, imports={'mmcv.ops': PROBE_CRASH}),
            'mmcv_operators',
            'broken',
            'built against another torch',
            '--no-cache-dir',
        ),
        (
            replace(GOOD, imports={'mmcv.ops': "ModuleNotFoundError: No module named 'mmcv._ext'"}),
            'mmcv_operators',
            'broken',
            'no compiled operators',
            'mmcv-lite',
        ),
        (
            replace(GOOD, imports={'mmcv': "ModuleNotFoundError: No module named 'addict'"}),
            'mmcv_operators',
            'broken',
            'addict',
            '-m pip install addict',
        ),
        (
            replace(GOOD, ops={('nms', 'cpu'): 'wrong result'}),
            'mmcv_operators',
            'broken',
            'nms: wrong result',
            'mmcv==2.1.0',
        ),
        (
            replace(GOOD, gpu='1 x GPU', ops={('nms', 'cuda'): 'not found'}, mmcv_cuda='none'),
            'mmcv_on_gpu',
            'broken',
            'torch has CUDA 12.1, mmcv none',
            'FORCE_CUDA=1',
        ),
        (
            replace(GOOD, compiler='needs a C++ compiler\n  apt install g++'),
            'compiler',
            'warning',
            'C++ compiler',
            'apt install g++',
        ),
        (
            replace(GOOD, compiler='needs a C++ compiler\n  apt', imports={'mmcv.ops': ''}),
            'compiler',
            'note',
            'not needed now',
            'apt',
        ),
        (
            with_versions(torchvision=''),
            'torchvision_for_mmpretrain',
            'warning',
            'got none',
            'torchvision==0.16.2',
        ),
        (
            with_versions(torchvision='0.28.0'),
            'torchvision_for_mmpretrain',
            'warning',
            'need torchvision 0.16.2, got 0.28.0',
            '--no-deps torchvision==0.16.2',
        ),
        (
            with_versions(transformers='4.57.0'),
            'transformers_version',
            'warning',
            'got 4.57.0',
            'transformers<4.56',
        ),
        (
            with_versions(torch='2.5.1', mmengine='0.10.5', transformers='4.40.0'),
            'adafactor',
            'broken',
            'registers Adafactor twice',
            'mmengine>=0.10.7,<1',
        ),
        (with_versions(torch='2.6.0'), 'weights_only', 'note', "mmkd_fm's own loader", ''),
        (
            replace(GOOD, environ={'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD': '1'}),
            'weights_only_switch',
            'warning',
            'may run code',
            'unset TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD',
        ),
        (replace(GOOD, cores=8), 'cpu_threads', 'note', 'unset', 'export OMP_NUM_THREADS=8'),
        (
            replace(GOOD, cores=8, environ={'OMP_NUM_THREADS': '1'}),
            'cpu_threads',
            'note',
            'OMP_NUM_THREADS is 1',
            'export OMP_NUM_THREADS=8',
        ),
    ],
)
def test_trap(facts, check, status, text, remedy):
    finding = findings(facts)[check]
    assert finding.status == status
    assert text in finding.text
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    'facts, check',
    [
        (with_versions(torch='2.13.0', numpy='2.4.6'), 'numpy_matches'),
        (with_versions(transformers='4.57.0', mmpretrain=''), 'transformers_version'),
        (with_versions(torch='2.5.1', transformers='4.40.0'), 'adafactor'),
        (with_versions(torch='2.5.1'), 'weights_only'),
        (replace(GOOD, environ={'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD': '0'}), 'weights_only_switch'),
        (replace(GOOD, cores=8, environ={'OMP_NUM_THREADS': '4'}), 'cpu_threads'),
        (replace(GOOD, cores=8, gpu='1 x GPU'), 'cpu_threads'),
    ],
)
def test_no_false_alarm(facts, check):
    assert check not in findings(facts)


def test_every_problem_has_a_remedy():
    empty = replace(GOOD, versions=dict.fromkeys(VERSIONS, ''), python=(3, 14), compiler='a\nb')
    found = [finding for check in CHECKS if (finding := check(empty)) is not OK]
    assert len(found) > 6
    assert all(finding.remedy for finding in found if finding.status != 'note')


def test_the_version_windows_are_the_same_everywhere():
    own = {name: window[:2] for name, window in doctor_checks.WINDOWS.items()}
    assert own == {name: window[:2] for name, window in mmkd_fm._SUPPORTED.items()}
    setup_py = (ROOT / 'setup.py').read_text()
    assert "'mmdet>=3.3,<4'" in setup_py and "'mmengine>=0.10.4,<1'" in setup_py
