"""Distillation for MMDetection 3.x: FM-KT on feature pyramids, WTTM on classification logits."""

from importlib import metadata

__version__ = '0.1.0'

# The windows that are accepted, of which README says what was tested: distribution -> (at least,
# below, remedy).
_SUPPORTED = {
    'torch': ((2, 1, 0), (3, 0, 0), 'make env, or install torch 2.1 or newer'),
    'mmengine': ((0, 10, 4), (1, 0, 0), "pip install 'mmengine>=0.10.4,<1'"),
    'mmdet': ((3, 3, 0), (4, 0, 0), "pip install 'mmdet>=3.3,<4'"),
    'mmcv': (
        (2, 0, 0),
        (2, 2, 0),
        'pip install mmcv==2.1.0 (mmdet 3.3 refuses mmcv 2.2 and later)',
    ),
}


def _release(version: str) -> tuple:
    """(2, 1, 0) of '2.1.0rc1+cpu'."""
    numbers = []
    for part in version.split('+')[0].split('.')[:3]:
        digits = ''.join(char for i, char in enumerate(part) if part[: i + 1].isdigit())
        numbers.append(int(digits or 0))
    return tuple(numbers + [0] * (3 - len(numbers)))


def _check_versions() -> None:
    """Refuse known-bad versions before they fail somewhere deep.

    Only what is installed is looked at, so that `mmkd_fm.functional` needs torch alone.
    """
    for name, (lowest, bound, remedy) in _SUPPORTED.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if not lowest <= _release(version) < bound:
            expected = '.'.join(map(str, lowest)) + ' <= version < ' + '.'.join(map(str, bound))
            raise ImportError(
                f'mmkd_fm {__version__} needs {name} with {expected}, but {version} is installed. '
                f'Remedy: {remedy}. `python tools/doctor.py` checks the whole environment.'
            )


_check_versions()
