"""Folds of a small data set: each image is tested once and never trained on where it is tested."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / 'tools/make_folds.py'


def coco(names, first=0):
    """A data set whose boxes tell which image they are of."""
    return dict(
        images=[dict(id=i, file_name=name, width=9, height=9) for i, name in enumerate(names)],
        annotations=[
            dict(id=first + i, image_id=i, category_id=1, bbox=[0, 0, len(name), 1], area=len(name))
            for i, name in enumerate(names)
            for _ in range(i % 3)
        ],
        categories=[dict(id=1, name='cell')],
    )


@pytest.fixture
def data(tmp_path):
    (tmp_path / 'images').mkdir()
    names = ['x' * length for length in range(1, 12)]
    for name in names:
        (tmp_path / 'images' / name).write_bytes(b'')
    (tmp_path / 'train.json').write_text(json.dumps(coco(names[:7])))
    (tmp_path / 'test.json').write_text(json.dumps(coco(names[7:])))
    return tmp_path


def split(data, *options, files=('train.json', 'test.json')):
    paths = [str(data / name) for name in files]
    command = [sys.executable, str(TOOL), str(data / 'folds'), *paths, *map(str, options)]
    return subprocess.run(
        [*command, '--images', str(data / 'images')], capture_output=True, text=True, check=False
    )


def read(data, fold, name):
    return json.loads((data / 'folds' / f'fold{fold}_{name}.json').read_text())


def names_of(part):
    return {image['file_name'] for image in part['images']}


def test_each_image_is_tested_once(data):
    done = split(data, '--folds', 3)
    assert done.returncode == 0, done.stderr
    tested = [names_of(read(data, fold, 'test')) for fold in range(3)]
    everything = set().union(*tested)
    assert len(everything) == 11 == sum(map(len, tested))
    assert {len(names) for names in tested} == {3, 4}
    for fold in range(3):
        assert names_of(read(data, fold, 'train')) == everything - tested[fold]
    assert (data / 'folds/images' / 'xxx').is_file()


def test_boxes_stay_with_their_images(data):
    split(data, '--folds', 2)
    count = 0
    for fold in range(2):
        for name in ('train', 'test'):
            part = read(data, fold, name)
            width = {image['id']: len(image['file_name']) for image in part['images']}
            assert len(width) == len(part['images'])
            assert len({box['id'] for box in part['annotations']}) == len(part['annotations'])
            assert all(box['bbox'][2] == width[box['image_id']] for box in part['annotations'])
            count += len(part['annotations'])
    boxes = 6 + 3  # of seven images and of four, with 0, 1 and 2 in turn
    assert count == 2 * boxes  # each is trained on once and tested once


def test_no_fold_of_another_split_is_left(data):
    split(data)
    split(data, '--folds', 2)
    names = {path.name for path in (data / 'folds').iterdir()}
    assert names == {f'fold{n}_{part}.json' for n in (0, 1) for part in ('train', 'test')} | {
        'images'
    }


def test_files_of_others_stay(data):
    split(data)
    other = data / 'folds/fold0_hard_test.json'
    other.write_text('mine')
    assert split(data, '--folds', 2).returncode == 0
    assert other.read_text() == 'mine'


def test_what_is_read_is_not_replaced(data):
    split(data)
    before = read(data, 4, 'test')
    done = split(data, '--folds', 2, files=('folds/fold4_test.json',))
    assert done.returncode == 2 and 'is read, and folds in' in ' '.join(done.stderr.split())
    assert read(data, 4, 'test') == before


def test_the_split_is_the_seed_s_alone(data):
    split(data)
    first = [read(data, fold, 'test') for fold in range(5)]
    shutil.rmtree(data / 'folds')
    split(data, files=('test.json', 'train.json'))
    assert [read(data, fold, 'test') for fold in range(5)] == first
    assert split(data, '--seed', 1).returncode == 0  # over the old ones
    assert [read(data, fold, 'test') for fold in range(5)] != first


@pytest.mark.parametrize(
    'change, options, message',
    [
        (None, ('--folds', 12), '--folds: expected 2 to 11 (the number of images), got 12'),
        (None, ('--folds', 1), '--folds: expected 2 to 11'),
        (coco(['x', 'y' * 20]), (), 'test.json: x is listed twice; it would be trained on'),
        (coco(['y', 'y']), (), 'test.json: an image is listed twice'),
        (coco(['y']), (), 'the 8 images of the annotations, 1 are not there, as y'),
        (dict(coco(['y']), categories=[]), (), 'expected the categories of'),
        ([1], (), 'expected images, annotations and categories in COCO format, got TypeError'),
        (dict(images=[], categories=[]), (), "got KeyError: 'annotations'"),
    ],
)
def test_what_can_not_be_split_leaves_nothing(data, change, options, message):
    if change is not None:
        (data / 'test.json').write_text(json.dumps(change))
    done = split(data, *options)
    assert done.returncode == 2 and message in done.stderr and 'Traceback' not in done.stderr
    assert not (data / 'folds').exists()


def test_images_of_others_are_not_replaced(data):
    (data / 'folds').mkdir()
    os.symlink(data, data / 'folds/images')
    done = split(data)
    assert done.returncode == 2 and 'got something else; name another folder' in done.stderr
    assert os.readlink(data / 'folds/images') == str(data)
    assert list((data / 'folds').iterdir()) == [data / 'folds/images']


@pytest.fixture
def classes(tmp_path):
    """A folder of seven cats and eleven dogs."""
    for name, count in (('dog', 11), ('cat', 7)):
        (tmp_path / 'data' / name).mkdir(parents=True)
        for number in range(count):
            (tmp_path / 'data' / name / f'{number}.jpg').write_bytes(b'')
    (tmp_path / 'data/README.md').write_text('no class')
    (tmp_path / 'data/dog/labels.txt').write_text('no image')
    (tmp_path / 'data/dog/10.jpg').rename(tmp_path / 'data/dog/x.PNG')
    (tmp_path / 'data/cat/of a friend').mkdir()
    (tmp_path / 'data/cat/6.jpg').rename(tmp_path / 'data/cat/of a friend/6.jpg')
    return tmp_path


def split_classes(classes, *options):
    command = [sys.executable, str(TOOL), str(classes / 'folds'), str(classes / 'data')]
    return subprocess.run([*command, *options], capture_output=True, text=True, check=False)


def lines(classes, fold, name):
    return (classes / f'folds/fold{fold}_{name}.txt').read_text().splitlines()


def test_each_image_of_a_class_is_tested_once(classes):
    done = split_classes(classes, '--folds', '3')
    assert done.returncode == 0, done.stderr
    everything = sorted(
        [f'cat/{number}.jpg 0' for number in range(6)]
        + [f'dog/{number}.jpg 1' for number in range(10)]
        + ['cat/of a friend/6.jpg 0', 'dog/x.PNG 1']
    )
    tested = [line for fold in range(3) for line in lines(classes, fold, 'test')]
    assert sorted(tested) == everything
    for fold in range(3):
        tested = lines(classes, fold, 'test')
        assert sum(line.endswith(' 0') for line in tested) in (2, 3)  # a third of each class
        assert sum(line.endswith(' 1') for line in tested) in (3, 4)
        assert sorted(tested + lines(classes, fold, 'train')) == everything


def test_mmpretrain_reads_the_lists_as_it_reads_the_folder(classes):
    from mmpretrain.datasets import CustomDataset

    split_classes(classes, '--folds', '2')
    folder = CustomDataset(data_root=str(classes), data_prefix='data')
    expected = {(os.path.relpath(x['img_path'], classes / 'data'), x['gt_label']) for x in folder}
    found = []
    for name in ('train', 'test'):
        part = CustomDataset(
            data_root=str(classes / 'folds'), data_prefix='images', ann_file=f'fold1_{name}.txt'
        )
        root = classes / 'folds/images'
        found += [(os.path.relpath(x['img_path'], root), x['gt_label']) for x in part]
    assert len(found) == 18 and set(found) == expected


@pytest.mark.parametrize(
    'data, options, message',
    [
        ('data', ('--folds', '8'), 'cat has 7 images; expected 2 folds or more'),
        ('data/dog', (), 'expected a folder of images for each class, got none'),
        ('none', (), '--images: expected the folder of the images'),
        ('data', ('--images', 'x'), 'leave it out'),
    ],
)
def test_what_is_no_folder_of_classes_leaves_nothing(classes, data, options, message):
    command = [sys.executable, str(TOOL), str(classes / 'folds'), str(classes / data), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and message in ' '.join(done.stderr.split())
    assert not (classes / 'folds').exists()
