"""What is imported by what."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import mmkd_fm

ROOT = Path(__file__).parents[1]

WITHOUT_OPENMMLAB = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('mmengine', 'mmcv', 'mmdet', 'mmpretrain', 'mmrazor'):
            raise ImportError(f'{name} is imported')

sys.meta_path.insert(0, Refuse())
import torch
from mmkd_fm import functional
loss = functional.wttm_loss(torch.zeros(2, 3), torch.ones(2, 3), 0.5)
steps = functional.transport(torch.zeros(2, 3), lambda z, t: z, 4).times
assert not any(name.startswith('mmkd_fm.models') for name in sys.modules)
print(float(loss), len(steps))
"""

THROUGH_THE_REGISTRY = """
import sys
from mmengine.registry import HOOKS, METRICS, MODELS, TRANSFORMS, init_default_scope

init_default_scope('mmdet')
assert not any(name.startswith('mmkd_fm') for name in sys.modules)
for name in (
    'Distiller', 'FMKTLoss', 'EndpointMatching', 'VelocityMatching', 'WTTMLoss', 'PKDLoss',
    'CWDLoss', 'MSELoss', 'Flow', 'ConvMetaEncoder',
):
    print(MODELS.get(f'mmkd_fm.{name}').__name__)
for name in (
    'DistillStateHook', 'ClipApartHook', 'DataCheckHook', 'LogitHistogramHook', 'TeacherCheckHook',
):
    print(HOOKS.get(f'mmkd_fm.{name}').__name__)
print(METRICS.get('mmkd_fm.TeacherAgreement').__name__)
print(TRANSFORMS.get('mmkd_fm.InMemory').__name__)
"""


def run(script):
    result = subprocess.run(
        [sys.executable, '-c', script], cwd=ROOT, text=True, capture_output=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_functional_needs_torch_alone():
    assert run(WITHOUT_OPENMMLAB) == ['0.0', '4']


def test_types_are_found_through_mmengines_registries_without_custom_imports():
    names = run(THROUGH_THE_REGISTRY)
    assert len(names) == 17
    assert {'Distiller', 'WTTMLoss', 'DistillStateHook', 'InMemory'} <= set(names)


def test_public_functions_are_documented():
    from mmkd_fm import functional

    for name in functional.__all__:
        assert getattr(functional, name).__doc__, name


@pytest.mark.parametrize(
    ('version', 'release'),
    [('2.1.0', (2, 1, 0)), ('2.1.0rc1+cpu', (2, 1, 0)), ('3.3', (3, 3, 0)), ('1.13.1', (1, 13, 1))],
)
def test_releases_are_read(version, release):
    assert mmkd_fm._release(version) == release


@pytest.mark.parametrize(
    ('name', 'version'), [('mmcv', '2.2.0'), ('mmdet', '3.2.0'), ('mmengine', '0.10.3')]
)
def test_known_bad_versions_are_refused_with_a_remedy(monkeypatch, name, version):
    installed = metadata.version
    monkeypatch.setattr(metadata, 'version', lambda n: version if n == name else installed(n))
    with pytest.raises(ImportError, match=rf'needs {name} .*but {version} .*Remedy: pip install'):
        mmkd_fm._check_versions()


def test_packages_that_are_not_installed_are_not_missed(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, 'version', absent)
    assert mmkd_fm._check_versions() is None
