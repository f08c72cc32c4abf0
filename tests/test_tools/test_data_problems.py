"""What is said of classification data that can't be trained on."""

import json
import re

import pytest

from data_problems import file_problems, folder_problems

LOADERS = ('train_dataloader', 'val_dataloader')


@pytest.fixture
def problems(tmp_path):
    """Problems of a training data set below the folder `data`: `problems(files, **dataset)`."""

    def find(files=('train/a/1.JPEG', 'train/b/1.png'), **dataset):
        for name in files:
            path = tmp_path / 'data' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dataset.pop('content', '') if name.endswith('.txt') else '')
        dataset = dict(dict(type='CustomDataset', data_root=f'{tmp_path}/data'), **dataset)
        dataset = dict(type='RepeatDataset', times=2, dataset=dataset)
        return list(folder_problems(dict(train_dataloader=dict(dataset=dataset)), LOADERS))

    return find


def assert_said(found, message):
    if message is None:
        assert found == []
    else:
        (problem,) = found
        assert problem.startswith('train_dataloader.dataset: ')
        assert re.search(message, problem), problem


@pytest.mark.parametrize(
    'split', [dict(data_prefix='train'), dict(data_prefix={'img_path': 'train'})]
)
def test_folders_of_classes_are_fine(problems, split):
    assert problems(**split) == []


def test_what_is_not_looked_at(problems):
    assert problems(data_prefix='absent', type='mmdet.CocoDataset') == []
    assert problems(data_prefix='absent', data_root='s3://bucket') == []
    assert problems(data_prefix='absent', backend_args=dict(backend='petrel')) == []
    assert list(folder_problems(dict(val_dataloader=None), LOADERS)) == []


PROBLEMS = [
    (dict(data_prefix='absent'), r'there is no image folder .*/data/absent; check .* data_prefix$'),
    (dict(data_prefix='train/a'), r'/train/a has no class folders: .*train/a/cat/1.jpg.* ann_file'),
    (dict(files=['train/a/x.txt'], data_prefix='train'), 'no class folder of .* has an image'),
    (dict(data_prefix='train', extensions=('.bmp',)), 'no class folder .*a, .*extensions .bmp'),
    (dict(files=['x/1.txt'], data_prefix='x', with_label=False), '/x has no images'),
    (dict(data_prefix='train', ann_file='a.txt'), r'no annotation file .*/data/a.txt; .*ann_file'),
    (dict(data_prefix='train', metainfo=dict(classes='abc')), None),  # a file
    (dict(data_prefix='train', metainfo=dict(classes=['a', 'b'])), None),
    (dict(data_prefix='train', metainfo=dict(classes=['a'])), '2 class folders, but .* names 1 cl'),
    (dict(type='ImageNet', split='train'), r'has 2 class folders, but ImageNet has 1000 .*Custom'),
    (
        dict(type='mmpretrain.ImageNet', split='val'),
        r'no image folder .*/val; .* data_root and split',
    ),
    (dict(type='CIFAR100', download=False), 'there is no folder .*/data/cifar-100-python; check'),
    (dict(type='CIFAR10'), None),  # it will be downloaded
]


@pytest.mark.parametrize(('dataset', 'message'), PROBLEMS)
def test_problems(problems, dataset, message):
    assert_said(problems(**dataset), message)


LISTS = [
    ('a/1.JPEG 0\n', None),
    ('a name/1.jpg 12\n', r'lists a name/1.jpg, but there is no file .*/train/a name/1.jpg'),
    ('', 'lists no images'),
    ('a/1.JPEG\n', "expected lines such as .cat/1.jpg 0., file and label, but got 'a/1.JPEG'"),
    ('a/1.JPEG cat\n', "but got 'a/1.JPEG cat'"),
]


@pytest.mark.parametrize(('content', 'message'), LISTS)
@pytest.mark.parametrize('kind', ['CustomDataset', 'ImageNet'])
def test_lists_of_images(problems, kind, content, message):
    given = dict(data_prefix='train', ann_file='meta/train.txt')
    dataset = dict(given if kind == 'CustomDataset' else dict(split='train'), type=kind)
    found = problems(['train/a/1.JPEG', 'meta/train.txt'], content=content, **dataset)
    assert_said(found, message)


def test_after_a_failed_download(tmp_path):
    dataset = dict(type='CIFAR10', data_root=str(tmp_path))
    (problem,) = file_problems(dict(test_dataloader=dict(dataset=dataset)), ['test_dataloader'])
    assert problem.startswith('test_dataloader.dataset: there is no folder')
    assert 'cifar-10-batches-py' in problem


def test_images_without_boxes_can_be_tested_on(tmp_path):
    """What fails beside such a file has another reason, which is not to be hidden by this one."""
    (tmp_path / 'empty.json').write_text('{"images": [1], "annotations": [], "categories": []}')
    dataset = dict(type='CocoDataset', data_root=str(tmp_path), ann_file='empty.json')
    cfg = {loader: dict(dataset=dataset) for loader in LOADERS}
    (problem,) = file_problems(cfg, LOADERS)
    assert problem == f'train_dataloader.dataset: {tmp_path}/empty.json has no boxes'


def test_data_sets_that_are_joined_or_wrapped_are_looked_at_each(tmp_path):
    """The second of three lacks its file."""
    content = '{"images": [1], "annotations": [1], "categories": [{"name": "a"}]}'
    (tmp_path / 'there.json').write_text(content)
    there, missing = (
        dict(type='CocoDataset', data_root=str(tmp_path), ann_file=name)
        for name in ('there.json', 'missing.json')
    )
    repeated = dict(type='RepeatDataset', times=2, dataset=missing)
    joined = dict(type='ConcatDataset', datasets=[there, repeated, there])
    (problem,) = file_problems(dict(train_dataloader=dict(dataset=joined)), LOADERS)
    assert 'there is no annotation file' in problem and 'missing.json' in problem


@pytest.mark.parametrize('in_a_file', [False, True])
def test_classes_that_are_no_list(in_a_file, tmp_path):
    """mmengine takes a file of them, or the only one."""
    names = tmp_path / 'classes.txt'
    names.write_text('cell\ncat\n')
    boxes = [dict(id=1, image_id=1, category_id=1, bbox=[0, 0, 2, 2], area=4, iscrowd=0)]
    content = dict(images=[dict(id=1)], annotations=boxes, categories=[dict(id=1, name='cell')])
    (tmp_path / 'x.json').write_text(json.dumps(content))
    metainfo = dict(classes=str(names) if in_a_file else 'cell')
    dataset = dict(type='CocoDataset', ann_file=str(tmp_path / 'x.json'), metainfo=metainfo)
    cfg = dict(train_dataloader=dict(dataset=dataset))
    assert list(file_problems(cfg, ['train_dataloader'])) == []
    metainfo['classes'] = 'dog'
    assert 'none of the classes dog:' in next(file_problems(cfg, ['train_dataloader']))
