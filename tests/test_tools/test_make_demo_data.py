"""The demo's data set: same bytes for the same arguments, valid COCO, clear errors."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from pycocotools.coco import COCO

TOOL = Path(__file__).resolve().parents[2] / 'tools/make_demo_data.py'


def draw(out, *options):
    command = [sys.executable, str(TOOL), str(out), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'demo'
    done = draw(out, '--train', 24, '--val', 6, '--test', 6, '--seed', 3)
    assert done.returncode == 0, done.stderr
    return out


def test_same_arguments_same_bytes(data, tmp_path):
    draw(tmp_path / 'again', '--train', 24, '--val', 6, '--test', 6, '--seed', 3)
    assert digests(data) == digests(tmp_path / 'again')


def test_other_seed_other_images(data, tmp_path):
    draw(tmp_path / 'other', '--train', 24, '--val', 6, '--test', 6, '--seed', 4)
    same = set(digests(data).values()) & set(digests(tmp_path / 'other').values())
    assert not same


def test_shorter_set_is_a_prefix(data, tmp_path):
    draw(tmp_path / 'short', '--train', 5, '--val', 1, '--test', 1, '--seed', 3)
    whole = digests(data / 'images')
    short = digests(tmp_path / 'short' / 'images')
    assert len(short) == 7
    assert short.items() <= whole.items()


def test_splits_share_no_image(data):
    images = digests(data / 'images')
    assert len(images) == len(set(images.values())) == 36


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_valid_coco(data, split):
    coco = COCO(str(data / f'{split}.json'))
    assert len(coco.imgs) == dict(train=24, val=6, test=6)[split]
    for image in coco.imgs.values():
        assert (data / 'images' / image['file_name']).is_file()
    for annotation in coco.anns.values():
        x, y, width, height = annotation['bbox']
        image = coco.imgs[annotation['image_id']]
        assert x >= 0 and y >= 0
        assert x + width <= image['width'] and y + height <= image['height']
        assert annotation['area'] == width * height > 0
        assert annotation['category_id'] in coco.cats


def test_all_classes_present(data):
    coco = COCO(str(data / 'train.json'))
    assert {annotation['category_id'] for annotation in coco.anns.values()} == set(coco.cats)


def test_config_names_the_same_classes(data):
    config = TOOL.parents[1] / 'configs/_base_/datasets/demo.py'
    names = [
        category['name'] for category in json.loads((data / 'train.json').read_text())['categories']
    ]
    from mmengine.config import Config

    assert list(Config.fromfile(config).metainfo.classes) == names


def test_complete_set_is_kept_and_broken_set_is_redrawn(tmp_path):
    out, options = tmp_path / 'demo', ('--train', 3, '--val', 1, '--test', 1)
    assert 'drawn' in draw(out, *options).stdout
    before = digests(out)
    assert 'already complete' in draw(out, *options).stdout
    (out / 'images' / 'train_00001.png').unlink()
    assert 'drawn' in draw(out, *options).stdout
    assert digests(out) == before


@pytest.mark.parametrize(
    'options, message',
    [
        (('--train', 0), '--train: expected at least 1 image, got 0'),
        (('--size', 16), '--size: expected 64 to 1024 pixels, got 16'),
        (('--seed', -1), '--seed: expected a non-negative integer, got -1'),
        (('--val', 'many'), 'invalid int value'),
    ],
)
def test_bad_arguments(tmp_path, options, message):
    done = draw(tmp_path / 'demo', *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / 'demo').exists()


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / 'thesis.txt').write_text('mine')
    done = draw(tmp_path)
    assert done.returncode == 2
    assert 'got other files; name another folder' in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.txt']
