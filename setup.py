"""Packages mmkd_fm; its configs and tools go under mmkd_fm/.mim, as in other OpenMMLab packages."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MIM = {
    'configs': '**/*',
    'tools': '**/*.py',
    'model-index.yml': '',
}  # what goes to .mim: which files


def version() -> str:
    """Reads the version without importing the package, which needs torch."""
    text = (ROOT / 'mmkd_fm' / '__init__.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '([^']+)'", text, flags=re.MULTILINE).group(1)


def long_description() -> str:
    """The README, where there is one."""
    readme = ROOT / 'README.md'
    return readme.read_text(encoding='utf-8') if readme.is_file() else ''


class BuildWithMim(build_py):
    """Copies configs and tools into the built package; the source tree is left as it is."""

    def run(self):
        """Builds as usual, then adds .mim."""
        super().run()
        if self.editable_mode:
            return
        shutil.rmtree(self.mim, ignore_errors=True)  # of an earlier build
        for source, target in self.mim_files():
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(source), str(target))

    @property
    def mim(self) -> Path:
        """The folder in the built package."""
        return Path(self.build_lib, 'mmkd_fm', '.mim')

    def mim_files(self):
        """Pairs of a source file and its place in the built package."""
        for name, pattern in MIM.items():
            top = ROOT / name
            for source in sorted(top.glob(pattern)) if pattern else [top]:
                if source.is_file() and source.suffix != '.pyc':
                    yield source, self.mim / source.relative_to(ROOT)

    def get_outputs(self, include_bytecode=True):
        """All built files."""
        mim = [] if self.editable_mode else [str(target) for _, target in self.mim_files()]
        return super().get_outputs(include_bytecode) + mim


setup(
    name='mmkd_fm',
    version=version(),
    description='Distillation for MMDetection 3.x: flow matching on features, WTTM on logits',
    long_description=long_description(),
    long_description_content_type='text/markdown',
    author='The mmkd_fm authors',
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords='knowledge distillation, object detection, flow matching, mmdetection',
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.9',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    packages=find_packages(include=['mmkd_fm', 'mmkd_fm.*']),
    python_requires='>=3.9',
    # torch and mmcv are left out, as in mmdet: pip would choose an mmcv that does not match
    # torch, or replace torch. tools/setup_env.py installs them, tools/doctor.py checks.
    install_requires=[
        'mmdet>=3.3,<4',
        'mmengine>=0.10.4,<1',
        'numpy',
        'pycocotools',
        'setuptools<81',  # mmengine reads `mmdet::` config names through pkg_resources
    ],
    extras_require={
        'imagenet': ['mmpretrain>=1.2'],  # and torchvision, left out for the same reason
        'dev': [
            'pytest>=7.4',
            'pytest-xdist[psutil]>=3.5',
            'ruff==0.17.5',
            'scikit-learn',  # for mmdet's PAA
        ],
    },
    cmdclass={'build_py': BuildWithMim},
    zip_safe=False,
)
