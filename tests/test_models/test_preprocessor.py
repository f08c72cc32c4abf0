import copy
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmkd_fm.models.preprocessor import TwoViewPreprocessor
from mmkd_fm.models.teacher import FrozenTeacher

RESIZE = dict(
    type='BatchSyncRandomResize', random_size_range=(64, 128), size_divisor=32, interval=1
)


@pytest.fixture
def two_views(retinanet, build):
    """The preprocessors of both and of the teacher: `two_views(teacher's changes, augments)`."""

    def make(changes=None, augments=None):
        student, teacher = retinanet()['data_preprocessor'], retinanet()
        student['batch_augments'] = augments
        teacher['data_preprocessor'].update(changes or {})
        frozen = FrozenTeacher(dict(model=teacher, default_scope='mmdet'))
        return TwoViewPreprocessor(build(student), frozen), frozen.model.data_preprocessor

    return make


def test_equal_views_share_one_tensor(two_views, raw_batch):
    preprocessor, _ = two_views()
    data = preprocessor(raw_batch(), True)
    assert preprocessor.same_view
    assert data['teacher_inputs'].data_ptr() == data['inputs'].data_ptr()
    assert data['teacher_inputs'].shape == data['inputs'].shape == (2, 3, 96, 96)


@pytest.mark.parametrize(
    'changes',
    [
        dict(mean=[0, 0, 0]),
        dict(std=[1, 2, 3]),
        dict(bgr_to_rgb=False),
        dict(pad_size_divisor=128),
        dict(pad_value=114),
    ],
    ids=lambda c: next(iter(c)),
)
def test_other_views_are_those_of_each_preprocessor_alone(two_views, raw_batch, changes):
    preprocessor, teacher = two_views(changes)
    batch = raw_batch()
    data = preprocessor(copy.deepcopy(batch), True)
    assert not preprocessor.same_view
    expected = preprocessor.student(copy.deepcopy(batch), True)['inputs']
    assert torch.equal(data['inputs'], expected)
    expected = teacher(copy.deepcopy(batch), False)['inputs']
    assert torch.equal(data['teacher_inputs'], expected)
    assert data['inputs'].shape != expected.shape or not torch.equal(data['inputs'], expected)


def test_test_time_is_the_students_preprocessor(two_views, raw_batch):
    preprocessor, _ = two_views(dict(mean=[0, 0, 0]))
    data = preprocessor(raw_batch(), False)
    assert set(data) == {'inputs', 'data_samples'}
    assert torch.equal(data['inputs'], preprocessor.student(raw_batch(), False)['inputs'])


def test_the_raw_batch_is_left_as_it_was(two_views, raw_batch):
    preprocessor, _ = two_views(dict(mean=[0, 0, 0]))
    batch = raw_batch()
    preprocessor(batch, True)
    for image, original in zip(batch['inputs'], raw_batch()['inputs']):
        assert torch.equal(image, original)


@pytest.mark.parametrize('changes', [{}, dict(mean=[0, 0, 0], std=[255, 255, 255])])
def test_batch_augmentations_run_once_for_both_views(two_views, raw_batch, iteration, changes):
    preprocessor, teacher = two_views(changes, [RESIZE])
    random.seed(0)  # the sizes are drawn: four equal ones would show nothing
    (augment,) = preprocessor.batch_augments
    calls, sizes = [], set()
    augment.register_forward_hook(lambda *_: calls.append(1))
    for i in range(4):
        iteration(i)
        batch = raw_batch(seed=i)
        size = augment._input_size or (96, 96)
        data = preprocessor(copy.deepcopy(batch), True)
        sizes.add(tuple(data['inputs'].shape[-2:]))
        assert data['inputs'].shape == data['teacher_inputs'].shape
        own = teacher(copy.deepcopy(batch), False)['inputs']
        expected = torch.nn.functional.interpolate(own, size, mode='bilinear', align_corners=False)
        torch.testing.assert_close(data['teacher_inputs'], expected)
        # the boxes follow the image
        x_factor = size[1] / 96
        boxes = data['data_samples'][0].gt_instances.bboxes
        original = batch['data_samples'][0].gt_instances.bboxes
        torch.testing.assert_close(torch.as_tensor(boxes)[:, 0], original[:, 0] * x_factor)
    assert len(calls) == 4
    assert len(sizes) > 1


def test_augmentations_of_views_of_different_size_are_refused(two_views, raw_batch):
    preprocessor, _ = two_views(dict(pad_size_divisor=128), [RESIZE])
    with pytest.raises(ValueError, match='set pad_size_divisor of the student and of the teacher'):
        preprocessor(raw_batch(), True)


def test_attributes_are_the_students(two_views):
    preprocessor, _ = two_views(dict(mean=[0, 0, 0]))
    assert isinstance(preprocessor, TwoViewPreprocessor)
    assert preprocessor.pad_size_divisor == 32
    assert preprocessor.mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    with pytest.raises(AttributeError, match='no_such_thing'):
        preprocessor.no_such_thing  # noqa: B018


# mmpretrain


@pytest.fixture
def classifiers(mmdet_scope):
    """Preprocessor of a student and of a teacher, and a batch: `classifiers(student, teacher)`."""
    ClsDataPreprocessor = pytest.importorskip('mmpretrain.models').ClsDataPreprocessor
    DataSample = pytest.importorskip('mmpretrain.structures').DataSample

    def make(student, teacher):
        batch = dict(
            inputs=[torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8) for _ in range(4)],
            data_samples=[DataSample().set_gt_label(label) for label in (0, 2, 1, 2)],
        )
        models = [ClsDataPreprocessor(num_classes=3, **options) for options in (student, teacher)]
        model = torch.nn.Module()
        model.data_preprocessor = models[1]
        return TwoViewPreprocessor(models[0], SimpleNamespace(model=model)), batch

    return make


def test_a_classifying_teacher_has_its_own_channel_order(classifiers):
    two_views, batch = classifiers(dict(mean=[0, 0, 0], std=[1, 1, 1]), dict(to_rgb=True))
    result = two_views(copy.deepcopy(batch), True)
    assert torch.equal(result['inputs'].flip(1), result['teacher_inputs'])


def test_mixup_reaches_both_views_and_the_labels(classifiers):
    augments = dict(augments=dict(type='mmpretrain.Mixup', alpha=1.0))
    normal = dict(mean=[100, 90, 80], std=[50, 60, 70])
    two_views, batch = classifiers(dict(normal, batch_augments=augments), dict(to_rgb=True))
    raw = torch.stack(batch['inputs']).float()
    torch.manual_seed(0), np.random.seed(0)
    result = two_views(copy.deepcopy(batch), True)
    scores = torch.stack([sample.gt_score for sample in result['data_samples']])
    assert ((scores > 0) & (scores < 1)).any()
    # both views are the same mixture of the raw images
    mean, std = (torch.tensor(normal[k]).reshape(1, 3, 1, 1) for k in ('mean', 'std'))
    mixed = result['inputs'] * std + mean
    torch.testing.assert_close(mixed.flip(1), result['teacher_inputs'], rtol=1e-5, atol=1e-3)
    assert not torch.allclose(mixed, raw)
    # as the student's preprocessor alone would do it
    torch.manual_seed(0), np.random.seed(0)
    from mmpretrain.models import ClsDataPreprocessor

    alone = ClsDataPreprocessor(num_classes=3, **normal, batch_augments=augments)
    expected = alone(copy.deepcopy(batch), True)
    assert torch.equal(result['inputs'], expected['inputs'])
    for ours, theirs in zip(result['data_samples'], expected['data_samples']):
        assert torch.equal(ours.gt_score, theirs.gt_score)
