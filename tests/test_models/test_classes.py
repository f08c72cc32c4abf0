import copy
import pickle

import pytest
import torch

from mmkd_fm.models.class_names import class_names, classes_of
from mmkd_fm.models.classes import (
    NamedMap,
    check_names,
    describe_class_map,
    resolve_class_map,
)

COCO = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
WHERE = ('train.json', 'teacher.pth')


def named(student, teacher):
    return resolve_class_map(dict(student=student, teacher=teacher))


def test_indices_stay_what_they_are():
    assert resolve_class_map(None) is None
    assert resolve_class_map((2, -1, 0)) == [2, -1, 0]


@pytest.mark.parametrize(
    ('student', 'teacher', 'indices'),
    [
        (['car', 'tram', 'dog'], ['dog', 'cat', 'car'], [2, -1, 0]),
        (['Car', 'TRAM'], ['tram', 'car'], [1, 0]),
        (['car', 'Car'], ['CAR', 'Car', 'car'], [2, 1]),  # equal names go before near ones
        (['a'], ['c', 'b', 'a'], [2]),
    ],
)
def test_names_become_indices(student, teacher, indices):
    resolved = named(student, teacher)
    assert resolved == indices
    assert resolved.student == tuple(student)
    assert resolved.teacher == tuple(teacher)


def test_a_type_of_data_set_stands_for_its_classes(mmdet_scope):
    resolved = named(['person', 'tram', 'dog'], 'mmdet.CocoDataset')
    assert resolved == [0, -1, 16]
    assert len(resolved.teacher) == 80
    assert named(['dog'], 'CocoDataset') == [16]
    assert named('mmdet.CocoDataset', 'mmdet.CocoDataset') == list(range(80))


@pytest.mark.parametrize('copied', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_keep_the_names(copied):
    resolved = named(['car', 'tram'], ['dog', 'car'])
    again = copied(resolved)
    assert (list(again), again.student, again.teacher) == (
        [1, -1],
        ('car', 'tram'),
        ('dog', 'car'),
    )


@pytest.mark.parametrize(
    ('class_map', 'message'),
    [
        ('coco', 'class_map is an index for each .* or names.*but got .coco.'),
        ([0, 1.5], r'but got \[0, 1.5\]'),
        ([True, False], r'but got \[True, False\]'),
        (dict(student=['a']), r"but got a dict of \['student'\]"),
        (dict(student=['a'], teacher=['a'], map=[0]), 'but got a dict of .*map'),
        ([1, 0, 1], 'gives class 1 of the teacher to several of the student: 0, 2'),
        (dict(student=['a', 'b', 'a'], teacher=['a']), "names 'a' more than once"),
        (dict(student=['a'], teacher=['b', 'a', 'a']), r"'a' could be any of .* \[1, 2\]"),
        (dict(student=['a'], teacher=['A', 'b', 'A']), r'any of .*\[0, 2\] .*\(A, A\)'),
        (dict(student=['a', 'A'], teacher=['a']), 'class 0 of the teacher to several.*: a, A'),
        (
            dict(student=['cars'], teacher=['cat', 'car']),
            "no class name in common.*'cars' meant to be 'car'",
        ),
        (dict(student=[], teacher=['a']), 'class_map.student must be a list of names'),
        (dict(student=['a'], teacher=[0]), r'class_map.teacher must be a list of .*\[0\]'),
        (dict(student=['a'], teacher='mmdet.NoDataset'), "teacher='mmdet.NoDataset' is no type"),
    ],
)
def test_maps_that_are_refused(class_map, message):
    with pytest.raises(ValueError, match=message):
        resolve_class_map(class_map)


def test_a_repeated_name_that_nobody_asks_for_is_accepted():
    assert named(['dog'], ['crane', 'dog', 'crane']) == [1]


def test_summary_of_names():
    text = describe_class_map(named(['car', 'tram', 'Dog'], ['dog', 'cat', 'car']))
    assert text == (
        "2 of the student's 3 classes compared with the teacher's 3: car, Dog <- dog\n"
        'without a partner, left out: tram'
    )


def test_summary_of_indices():
    assert describe_class_map([2, -1, 0]) == (
        "2 of the student's 3 classes compared with the teacher's: 0 <- 2, 2 <- 0\n"
        'without a partner, left out: 1'
    )
    assert describe_class_map([1]) == (
        "1 of the student's 1 classes compared with the teacher's: 0 <- 1"
    )


def test_summary_of_many_classes_is_short():
    names = [f'class {i}' for i in range(80)]
    text = describe_class_map(named(names, [*names[:40], 'other']))
    compared, alone = text.splitlines()
    assert compared.endswith('class 10, class 11, ... (40 in all)')
    assert alone.startswith('without a partner, left out: class 40, class 41')
    assert alone.endswith('... (40 in all)')
    assert max(map(len, (compared, alone))) < 220


@pytest.mark.parametrize(
    'meta',
    [
        dict(dataset_meta=dict(classes=('a', 'b'))),
        dict(dataset_meta=dict(CLASSES=('a', 'b'))),
        dict(CLASSES=['a', 'b'], epoch=3),
    ],
)
def test_names_in_checkpoints(meta, tmp_path):
    file = str(tmp_path / 'any_name')
    torch.save(dict(state_dict={}, meta=meta), file)
    assert class_names(file) == ['a', 'b']
    assert class_names(dict(state_dict={}, meta=meta)) == ['a', 'b']


@pytest.mark.parametrize('content', [{}, dict(meta={}), dict(meta=None), dict(meta=dict(epoch=3))])
def test_checkpoints_without_names(content):
    assert class_names(dict(content, state_dict={})) is None


def test_a_missing_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match='x.pth'):
        class_names(str(tmp_path / 'x.pth'))


def config(dataset):
    return dict(train_dataloader=dict(dataset=dataset), default_scope='mmdet')


@pytest.mark.parametrize(
    'wrap',
    [
        lambda dataset: dataset,
        lambda dataset: dict(type='RepeatDataset', dataset=dataset),
        lambda dataset: dict(type='ConcatDataset', datasets=[dataset, dataset]),
    ],
)
def test_names_in_configs(wrap, mmdet_scope, tmp_path):
    coco = class_names(config(wrap(dict(type='CocoDataset'))))
    assert len(coco) == 80
    assert coco[16] == 'dog'
    assert coco == class_names(COCO)
    given = dict(type='CocoDataset', metainfo=dict(classes=('a', 'b')))
    assert class_names(config(wrap(given))) == ['a', 'b']
    (tmp_path / 'classes.txt').write_text('a\nb\n')
    given['metainfo'] = dict(classes=str(tmp_path / 'classes.txt'))
    assert class_names(config(wrap(given))) == ['a', 'b']


def test_configs_without_names():
    assert class_names(dict(model=dict(type='RetinaNet'))) is None
    assert class_names(config(dict(type='BaseDetDataset'))) is None


def test_names_in_configs_of_classifiers():
    pytest.importorskip('mmpretrain.models')
    names = class_names('mmpretrain::resnet/resnet18_8xb16_cifar10.py')
    assert names[:2] == ['airplane', 'automobile']
    assert len(names) == 10


def test_the_same_names_raise_no_doubt():
    assert check_names(None, ['a', 'B'], ['a', 'b'], WHERE) is None
    assert check_names(None, ['a'], None, WHERE) is None
    assert check_names([1, 0], ['a', 'b'], ['c', 'd'], WHERE) is None  # the user says so
    mapped = NamedMap([1, -1], ['a', 'b'], ['c', 'a'])
    assert check_names(mapped, ('a', 'b'), ['c', 'a'], WHERE) is None
    assert check_names(mapped, ('a', 'b'), None, WHERE) is None


def test_another_order_is_refused():
    with pytest.raises(ValueError, match=r'train.json and teacher.pth .* order: a, c.*class_map='):
        check_names(None, ['a', 'b', 'c'], ['C', 'b', 'A'], WHERE)


def test_a_class_in_the_place_of_another_is_refused():
    with pytest.raises(ValueError, match='another order: b'):
        check_names(None, ['a', 'b', 'new'], ['a', 'x', 'b'], WHERE)


def test_other_names_are_doubtful():
    doubt = check_names(None, ['plane', 'b'], ['aeroplane', 'b'], WHERE)
    assert '0: plane / aeroplane' in doubt
    assert '1:' not in doubt
    assert 'class_map=dict(student=' in doubt


def test_another_number_of_names_is_doubtful():
    """A teacher of 2 logits whose checkpoint names 80 classes: the names are not its own."""
    doubt = check_names(None, ['dog', 'cat'], class_names(COCO), WHERE)
    assert 'train.json has 2 classes, teacher.pth names 80' in doubt


@pytest.mark.parametrize(
    ('student', 'teacher', 'message'),
    [
        (['b', 'a'], ['c', 'a'], 'class_map.student has the classes a, b, but train.json has b, a'),
        (['a'], ['c', 'a'], 'class_map.student has the classes a, b, but train.json has a;'),
        (['a', 'b'], ['a', 'c'], 'class_map.teacher has .* c, a, but teacher.pth has a, c'),
    ],
)
def test_a_map_of_other_classes_is_refused(student, teacher, message):
    mapped = NamedMap([1, -1], ['a', 'b'], ['c', 'a'])
    with pytest.raises(ValueError, match=message):
        check_names(mapped, student, teacher, WHERE)


def test_parts_of_a_data_set_have_the_classes_that_all_name():
    parts = [dict(classes=['a', 'b'], kind=1), dict(CLASSES=['a', 'b'], kind=2)]
    assert classes_of(parts) == classes_of(parts[0]) == ['a', 'b']
    assert classes_of([*parts, dict(classes=['b', 'a'])]) is None
    assert classes_of([*parts, {}]) is classes_of([]) is classes_of({}) is classes_of(None) is None
