"""The demo from beginning to end on a few images for one epoch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / 'tools/demo.py'


def run_demo(folder, *options):
    command = [
        sys.executable,
        str(TOOL),
        '--work-dir',
        str(folder / 'work'),
        '--data-dir',
        str(folder / 'data'),
        '--images',
        '8',
        '4',
        '4',
        *options,
    ]
    env = dict(os.environ, COLUMNS='160')
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('demo')
    done = run_demo(folder, '--epochs', '1')
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / 'stdout').write_text(done.stdout)
    return folder


@pytest.mark.slow
def test_report(folder):
    report = json.loads((folder / 'work/report.json').read_text())
    models = {model['kind']: model for model in report['models']}
    assert set(models) == {'teacher', 'plain', 'distilled'}
    for model in models.values():
        assert set(model['scores']) == {'AP', 'AP50', 'AP75', 'APs', 'APm', 'APl'}
        assert [epoch for epoch, _ in model['curve']] == [1]
    # zero cost: what is deployed is the plain student
    for quantity in ('parameters', 'gflops'):
        assert models['distilled'][quantity] == models['plain'][quantity]
        assert models['plain'][quantity] < models['teacher'][quantity]
    text = (folder / 'work/report.md').read_text()
    shown = (folder / 'stdout').read_text()
    for words in ('Student, distilled', 'GFLOPs', 's/image'):
        assert words in text and words in shown
    assert 'strict=True' in shown
    assert (folder / 'work/figure.png').stat().st_size > 20_000


@pytest.mark.slow
def test_finished_stages_are_skipped(folder):
    done = run_demo(folder, '--epochs', '1')
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('trained before, skipped') == 3


@pytest.mark.slow
def test_other_settings_are_not_mixed(folder):
    done = run_demo(folder, '--epochs', '2')
    assert done.returncode == 1
    assert '--fresh' in done.stdout
