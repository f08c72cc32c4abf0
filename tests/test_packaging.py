import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import mmkd_fm

ROOT = Path(__file__).parents[1]
PARTS = ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'LICENSE', 'mmkd_fm', 'configs', 'tools')


def test_a_wheel_holds_the_package_with_its_configs_and_tools(tmp_path):
    source = tmp_path / 'source'
    source.mkdir()
    for part in PARTS:
        path = ROOT / part
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, source / part)
    before = {path for path in source.rglob('*') if 'egg-info' not in str(path)}

    command = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation']
    command += ['--no-index', '-w', str(tmp_path), str(source)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr

    (wheel,) = tmp_path.glob('mmkd_fm-*.whl')
    assert wheel.name.startswith(f'mmkd_fm-{mmkd_fm.__version__}-')
    names = set(zipfile.ZipFile(wheel).namelist())
    for top, pattern in (('mmkd_fm', '*.py'), ('configs', '*'), ('tools', '*.py')):
        for path in (source / top).rglob(pattern):
            if path.is_file() and path.suffix != '.pyc':
                place = path.relative_to(source).as_posix()
                assert (place if top == 'mmkd_fm' else f'mmkd_fm/.mim/{place}') in names
    metadata = next(name for name in names if name.endswith('METADATA'))
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    # pip must not choose them: they have to match each other
    assert not re.search(r'^Requires-Dist: (torch(vision)?|mmcv)\b', text, flags=re.MULTILINE)

    added = {path.relative_to(source).parts[0] for path in source.rglob('*') if path not in before}
    assert added <= {'build', 'mmkd_fm.egg-info'}  # both are in .gitignore
