"""Some rows of the coverage page, on drawn images."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / 'tools/coverage.py'


@pytest.fixture(scope='module')
def coverage(mmdet_scope):
    """The tool as a module; its name is that of a package too."""
    spec = importlib.util.spec_from_file_location('coverage_tool', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def images(mmdet_scope, tmp_path_factory):
    from coverage_models import Images

    folder = tmp_path_factory.mktemp('coverage')
    images = Images(folder / 'none', folder / 'drawn', side=128)
    assert images.name == 'drawn images'
    assert len(images.classes) == 6
    return images


def pair(coverage, title):
    return next(p for p in coverage.FAMILIES + coverage.MIXED if p.title == title)


def run(coverage, images, title, folder):
    from coverage_step import run

    outcome = run(pair(coverage, title), images, folder)
    assert outcome.passed
    assert outcome.gradients > 50
    assert outcome.losses['fmkt'] > 0
    return outcome


def test_a_two_stage_teacher_of_a_dense_student(coverage, images, tmp_path):
    outcome = run(coverage, images, 'Faster R-CNN R101 to RetinaNet', tmp_path)
    assert outcome.levels == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert 'No RoI belongs to a location' in outcome.refusal
    assert set(outcome.losses) == {'fmkt', 'fmkt_theta'}


def test_every_stage_of_a_cascade(coverage, images, tmp_path):
    outcome = run(coverage, images, 'Faster R-CNN R101 to Cascade R-CNN', tmp_path)
    assert outcome.refusal == ''
    assert {'wttm', 'wttm1', 'wttm2'} < set(outcome.losses)


def test_other_anchors_and_levels(coverage, images, tmp_path):
    title = "RetinaNet X101 to RTMDet-tiny, anchors='max', levels=[0, 1, 2]"
    outcome = run(coverage, images, title, tmp_path)
    assert outcome.refusal == ''
    assert outcome.levels == [(0, 0), (1, 1), (2, 2)]
    assert outcome.losses['wttm'] > 0


def test_what_fails_is_seen(coverage):
    from coverage_step import Outcome

    good = dict(
        levels=[(0, 1)], losses=dict(fmkt=1.0, fmkt_theta=0.0, wttm=0.25, wttm1=0.5), refusal='',
        missing=[], gradients=9, not_finite=[], exported=True, seconds=1.0,
    )  # fmt: skip
    assert Outcome(**good).passed
    for change in (dict(missing=['neck.w']), dict(not_finite=['loss_cls']), dict(exported=False)):
        assert not Outcome(**dict(good, **change)).passed
    faulty = Outcome(**dict(good, missing=['neck.w'], not_finite=['loss_cls']))
    refused = Outcome(**dict(good, refusal='no'))
    retinanet, fcos, atss, gfl = coverage.FAMILIES[:4]
    results = [(retinanet, Outcome(**good)), (fcos, refused), (atss, faulty), (gfl, 'no package')]
    lines = coverage.page('# Title', results).splitlines()
    assert '| RetinaNet | 0<-1 | 1.00 | 0.00 | 0.75 | 9/9 | strict | 1.0 |' in lines
    assert '| FCOS | 0<-1 | 1.00 | 0.00 | [1] | 9/9 | strict | 1.0 |' in lines
    assert any('8/9 (neck.w, loss_cls not finite)' in line for line in lines)
    assert any(line.startswith('| GFL | not run: no package |') for line in lines)
    assert lines[-1] == '1. no'


def test_unknown_rows_list_the_valid_ones():
    done = subprocess.run(
        [sys.executable, str(TOOL), '--rows', 'YOLO'],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ, COLUMNS='160'),
    )
    assert done.returncode == 2
    assert "no row 'YOLO'; there are: RetinaNet; FCOS" in done.stderr
