import copy
import math
import random
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.models import DetDataPreprocessor
from torch import nn

from mmkd_fm.models.alignment import Level, Tapped, measure
from mmkd_fm.models.preprocessor import TwoViewPreprocessor, _cells, _pixels, common_part
from mmkd_fm.models.taps import Tap
from mmkd_fm.models.teacher import FrozenTeacher, rescale
from mmkd_fm.models.terms import WEIGHTS

RESIZE = dict(
    type='BatchSyncRandomResize', random_size_range=(64, 128), size_divisor=32, interval=1
)


@pytest.fixture
def two_views(retinanet, build):
    """The preprocessors of both and of the teacher: `two_views(teacher's changes, augments)`."""

    def make(changes=None, augments=None, student=None, scale=1):
        teacher = retinanet()
        student = dict(student or teacher['data_preprocessor'], batch_augments=augments)
        teacher['data_preprocessor'].update(changes or {})
        frozen = FrozenTeacher(dict(model=teacher, default_scope='mmdet'), input_scale=scale)
        return TwoViewPreprocessor(build(student), frozen), frozen.model.data_preprocessor

    return make


def test_equal_views_share_one_tensor(two_views, raw_batch):
    preprocessor, _ = two_views()
    data = preprocessor(raw_batch(), True)
    assert preprocessor.same_view
    assert data['teacher_inputs'].data_ptr() == data['inputs'].data_ptr()
    assert data['teacher_inputs'].shape == data['inputs'].shape == (2, 3, 96, 96)


class Brighter(DetDataPreprocessor):
    """Has the options of the usual one, and a way of its own."""

    def forward(self, data, training=False):
        result = super().forward(data, training)
        return dict(result, inputs=result['inputs'] + 1)


def test_a_preprocessor_with_a_forward_of_its_own_is_another_view(two_views, raw_batch):
    preprocessor, _ = two_views(dict(type=Brighter))
    data = preprocessor(raw_batch(), True)
    assert not preprocessor.same_view
    assert torch.equal(data['teacher_inputs'], data['inputs'] + 1)


def test_a_preprocessor_that_holds_others_is_another_view(retinanet, build, raw_batch):
    """The one inside normalises, which the outer one does not say."""
    teacher = retinanet()
    teacher['data_preprocessor'] = dict(
        type='MultiBranchDataPreprocessor', data_preprocessor=teacher['data_preprocessor']
    )
    frozen = FrozenTeacher(dict(model=teacher, default_scope='mmdet'))
    preprocessor = TwoViewPreprocessor(build(dict(type='DetDataPreprocessor')), frozen)
    data = preprocessor(raw_batch(), True)
    assert data['inputs'].min() >= 0 > data['teacher_inputs'].min()


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


YOLOX = dict(type='DetDataPreprocessor', pad_size_divisor=32)  # as in its configs: raw pixels
AUGMENTS = {
    'sync': dict(RESIZE, random_size_range=(128, 128)),
    'pad': dict(type='BatchFixedSizePad', size=(128, 160)),
    'resize': dict(type='BatchResize', scale=(144, 160), pad_size_divisor=32),
}
INSIDE = {'sync': (128, 128), 'pad': (96, 96), 'resize': (144, 144)}  # the rest is padding


@pytest.fixture
def full_batch(raw_batch):
    """One image of 96 x 96, so that nothing is padded before the augmentations."""

    def make():
        batch = raw_batch(boxes=(3,))
        (sample,) = batch['data_samples']
        sample.ignored_instances = copy.deepcopy(sample.gt_instances)
        return batch

    return make


def augmented(name, preprocessor, batch, iteration):
    """The second of two batches: the first of BatchSyncRandomResize is not resized."""
    iteration(0)
    preprocessor(batch(), True)
    return preprocessor(batch(), True)


@pytest.mark.parametrize('scale', [1, 2])
@pytest.mark.parametrize('divisor', [1, 32, 128])
@pytest.mark.parametrize('normalised', [False, True])
@pytest.mark.parametrize('name', AUGMENTS)
def test_augmented_views_have_the_same_content(
    name, normalised, divisor, scale, two_views, build, full_batch, iteration
):
    normal = dict(mean=[100, 90, 80], std=[50, 60, 70], bgr_to_rgb=True)
    changes = normal if normalised else dict(mean=None, std=None, bgr_to_rgb=False)
    augments = [AUGMENTS[name]]
    preprocessor, _ = two_views(dict(changes, pad_size_divisor=divisor), augments, YOLOX, scale)
    data = augmented(name, preprocessor, full_batch, iteration)
    # the student's is that of its own preprocessor
    alone = augmented(name, build(dict(YOLOX, batch_augments=augments)), full_batch, iteration)
    torch.testing.assert_close(data['inputs'], alone['inputs'], rtol=1e-6, atol=1e-4)
    boxes, expected = (d['data_samples'][0].gt_instances.bboxes for d in (data, alone))
    assert torch.equal(boxes, expected)
    assert data['inputs'].shape[-2:] != (96, 96)
    # the teacher's is the same image; what is added to it is 0 in both, whatever the normalisation
    expected = data['inputs']
    height, width = INSIDE[name]
    if normalised:
        mean, std = (torch.tensor(normal[k]).reshape(1, 3, 1, 1) for k in ('mean', 'std'))
        expected = F.pad(
            (expected[..., :height, :width].flip(1) - mean) / std,
            (0, expected.shape[-1] - width, 0, expected.shape[-2] - height),
        )
    if scale != 1:
        expected = F.interpolate(expected, scale_factor=scale, mode='bilinear')
    got = data['teacher_inputs']
    height, width = expected.shape[-2:]
    assert got.shape[-2:] == (-(-height // divisor) * divisor, -(-width // divisor) * divisor)
    torch.testing.assert_close(got[..., :height, :width], expected, rtol=1e-4, atol=1e-4)
    assert not got[..., height:, :].any() and not got[..., width:].any()


def test_an_empty_list_of_augmentations_resizes_the_teachers_view_once(two_views, full_batch):
    preprocessor, _ = two_views(augments=[], scale=2)
    assert preprocessor(full_batch(), True)['teacher_inputs'].shape[-2:] == (192, 192)


# the teacher's own resolution


def test_no_view_is_made_for_a_teacher_that_is_not_run(
    distiller, teachers, distill_losses, raw_batch
):
    """A schedule has set all weights to 0; a copy of the model asks its own terms."""
    teacher = dict(teachers['retinanet'], input_scale=2)
    model = distiller(teacher=teacher, losses=dict(fmkt=distill_losses['fmkt']))
    twin = copy.deepcopy(model)
    for loss in twin.distill_losses.values():
        for weight in [key for key in WEIGHTS if hasattr(loss, key)]:
            setattr(loss, weight, 0)
    data = twin.data_preprocessor(raw_batch(), True)
    assert data['teacher_inputs'] is data['inputs']
    data = model.data_preprocessor(raw_batch(), True)
    assert data['teacher_inputs'].shape[-1] == 2 * data['inputs'].shape[-1]


@pytest.mark.parametrize('divisor', [1, 32, 128])
@pytest.mark.parametrize('scale', [0.5, 1.5, 2])
def test_own_resolution_is_the_teacher_alone_on_the_resized_batch(
    two_views, raw_batch, scale, divisor
):
    changes = dict(mean=[100, 90, 80], bgr_to_rgb=False, pad_size_divisor=divisor)
    preprocessor, teacher = two_views(changes, scale=scale)
    batch = raw_batch()
    data = preprocessor(copy.deepcopy(batch), True)
    resized = [
        F.interpolate(
            image[None].float(),
            size=[int(side * scale) for side in image.shape[-2:]],
            mode='bilinear',
            antialias=scale < 1,
        )[0]
        for image in batch['inputs']
    ]
    expected = teacher(dict(inputs=resized), False)['inputs']
    assert torch.equal(data['teacher_inputs'], expected)
    assert torch.equal(data['inputs'], preprocessor.student(raw_batch(), True)['inputs'])


def test_the_same_normalisation_at_another_resolution_is_another_view(two_views, raw_batch):
    preprocessor, _ = two_views(scale=0.5)
    assert not preprocessor.same_view
    data = preprocessor(raw_batch(), True)
    assert data['inputs'].shape[-2:] == (96, 96)
    assert data['teacher_inputs'].shape[-2:] == (64, 64)  # 48 padded to a multiple of 32


@pytest.mark.parametrize('scale', [0.4, 1.7, 2])
def test_pixels_stay_where_they_are(scale):
    x = torch.arange(100.0).expand(1, 3, 60, 100)
    got = rescale(x, scale)
    assert got.shape == (1, 3, int(60 * scale), int(100 * scale))
    where = (torch.arange(got.shape[-1]) + 0.5) / scale - 0.5
    inner = (where > 5) & (where < 94)  # the filter reaches no edge
    torch.testing.assert_close(got[0, 0, 0][inner], where[inner], rtol=0, atol=0.02)


@pytest.mark.parametrize('scale', [0.35, 0.7, 1.1, 1.15, 1.3, 1.45])
def test_sizes_are_those_of_resized_images(scale):
    """Also where the product is just below a whole number, as 100 * 1.15 is."""
    lengths = range(32, 200)
    resized = [rescale(torch.zeros(1, 1, length, 8), scale).shape[2] for length in lengths]
    assert [_pixels(length, scale) for length in lengths] == resized


@pytest.mark.parametrize('scale', ['0.7', '1.1', '1.3', '1.5'])
def test_cells_cover_a_length_and_no_more(scale):
    """Also where the quotient is rounded to just above a whole number."""
    for stride in (4, 8, 16, 32):
        for length in range(1, 1000):
            exact = Fraction(length) * Fraction(scale) / stride
            assert _cells(length, stride / float(scale)) == math.ceil(exact)


def test_shrinking_averages():
    checkerboard = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 200
    image = checkerboard.to(torch.uint8).expand(3, 32, 32)
    (got,) = rescale([image], 0.25)
    torch.testing.assert_close(got[:, 1:-1, 1:-1], torch.full((3, 6, 6), 100.0))
    assert rescale(image, 1) is image


# the same place in both views


def tapped(strides):
    return Tapped('teacher', Tap('neck'), nn.Identity(), tuple(Level(3, s) for s in strides))


RAW = dict(mean=[0, 0, 0], std=[1, 1, 1])
SIZES = [[(72, 90), (88, 64)], [(96, 130), (128, 33)]]


@pytest.mark.parametrize('scale', [1, 0.5, 1.5, 2])
@pytest.mark.parametrize('divisors', [(32, 1), (32, 128), (1, 32), (1, 128), (128, 32)])
@pytest.mark.parametrize('sizes', SIZES)
def test_a_location_is_the_same_place_in_both_views(two_views, retinanet, sizes, divisors, scale):
    student = dict(retinanet()['data_preprocessor'], **RAW, pad_size_divisor=divisors[0])
    changes = dict(RAW, pad_size_divisor=divisors[1])
    preprocessor, _ = two_views(changes, student=student, scale=scale)
    images = [torch.zeros(3, *size, dtype=torch.uint8) for size in sizes]
    for image in images:  # each pixel holds its coordinates
        image[0] = torch.arange(image.shape[2])
        image[1] = torch.arange(image.shape[1])[:, None]
    data = preprocessor(dict(inputs=images, data_samples=None), True)
    views = data['inputs'], data['teacher_inputs']
    for stride in (8, 16):
        # average pooling is a network whose features tell where they are
        ours, theirs = (
            nn.functional.avg_pool2d(view, int(stride * s), ceil_mode=True)
            for view, s in zip(views, (1, scale))
        )
        shapes = [view.shape[-2:] for view in views]
        theirs = common_part(theirs, tapped([stride]), *shapes, scale)
        assert theirs.shape == ours.shape
        for n, (height, width) in enumerate(sizes):
            rows, columns = height // stride, width // stride  # those without padding
            cells = (n, slice(1, 3), slice(0, rows), slice(0, columns))
            torch.testing.assert_close(theirs[cells], ours[cells], rtol=0, atol=0.2)
            centres = stride * (torch.arange(columns) + 0.5) - 0.5
            torch.testing.assert_close(theirs[n, 2, 0, :columns], centres, rtol=0, atol=0.2)


def test_views_that_end_together_are_left_as_they_are():
    maps = [torch.rand(1, 3, 13, 13), torch.rand(1, 3, 7, 7)]
    assert common_part(maps, tapped([8, 16]), (96, 96), (96, 96)) is maps
    assert common_part(maps, tapped([4, 8]), (96, 96), (192, 192), 2) is maps
    logits = torch.rand(2, 10)
    assert common_part(logits, tapped([]), (96, 96), (128, 128)) is logits


@pytest.mark.parametrize('size', [(96, 96), (70, 130), (200, 40)])
@pytest.mark.parametrize('divisors', [(32, 128), (1, 128), (1, 64)])
def test_the_levels_of_a_pyramid_keep_their_pairs(retinanet, build, divisors, size):
    model = build(retinanet()).eval()
    sides = [[-(-side // divisor) * divisor for side in size] for divisor in divisors]
    with torch.no_grad():
        levels = measure(model.extract_feat(torch.zeros(1, 3, 128, 128)), 128)
        ours, theirs = (model.extract_feat(torch.zeros(1, 3, *view)) for view in sides)
    measured = Tapped('teacher', Tap('neck'), model.neck, levels)
    assert [m.shape for m in ours] != [m.shape for m in theirs]
    both = common_part(dict(a=theirs, b=None), dict(a=measured, b=tapped([])), *sides)
    assert [m.shape for m in both['a']] == [m.shape for m in ours]
    assert both['b'] is None


@pytest.mark.parametrize('divisor, scale', [(128, 1), (128, 2), (160, 2)])
def test_losses_are_given_the_same_place_of_both_models(
    distiller, write_teacher, retinanet, raw_batch, divisor, scale
):
    config = retinanet()
    config['data_preprocessor']['pad_size_divisor'] = divisor
    teacher = write_teacher(config)
    losses = dict(pkd=dict(type='mmkd_fm.PKDLoss', tap='neck', levels=[1]))
    model = distiller(teacher=dict(teacher, input_scale=scale), losses=losses).eval()
    model.student.load_state_dict(model.teacher.model.state_dict())
    seen = []
    model.distill_losses.pkd.register_forward_pre_hook(lambda _, args: seen.append(args))
    data = model.data_preprocessor(raw_batch(boxes=(2,)), True)
    with torch.no_grad():
        model(**data, mode='loss')
        whole = model.teacher.model.extract_feat(data['teacher_inputs'])
    assert data['teacher_inputs'].shape[-1] > 96 * scale
    (ours, theirs), level = seen[0], {1: 1, 2: 2}[scale]
    ours, theirs, whole = ours[1], theirs[level], whole[level]
    assert ours.shape == theirs.shape
    assert torch.equal(theirs, whole[..., : ours.shape[-2], : ours.shape[-1]])


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

    def make(student, teacher, scale=1):
        batch = dict(
            inputs=[torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8) for _ in range(4)],
            data_samples=[DataSample().set_gt_label(label) for label in (0, 2, 1, 2)],
        )
        model = dict(
            type='ImageClassifier',
            backbone=dict(type='LeNet5'),
            data_preprocessor=dict(type='ClsDataPreprocessor', num_classes=3, **teacher),
        )
        frozen = FrozenTeacher(dict(model=model, default_scope='mmpretrain'), input_scale=scale)
        own = ClsDataPreprocessor(num_classes=3, **student)
        return TwoViewPreprocessor(own, frozen), batch

    return make


def test_a_classifying_teacher_has_its_own_channel_order(classifiers):
    two_views, batch = classifiers(dict(mean=[0, 0, 0], std=[1, 1, 1]), dict(to_rgb=True))
    result = two_views(copy.deepcopy(batch), True)
    assert torch.equal(result['inputs'].flip(1), result['teacher_inputs'])


@pytest.mark.parametrize('owner', ['student', 'teacher'])
def test_the_channel_order_of_classifiers_alone_makes_another_view(classifiers, owner):
    """With the same normalisation."""
    plain = dict(mean=[0, 0, 0], std=[1, 1, 1])
    other = dict(plain, to_rgb=True)
    two_views, batch = classifiers(*((other, plain) if owner == 'student' else (plain, other)))
    assert not two_views.same_view
    result = two_views(copy.deepcopy(batch), True)
    assert torch.equal(result['inputs'].flip(1), result['teacher_inputs'])
    assert classifiers(other, other)[0].same_view


def test_a_classifying_teacher_has_its_own_resolution(classifiers):
    two_views, batch = classifiers(dict(mean=[0, 0, 0], std=[1, 1, 1]), {}, scale=2)
    stacked = dict(batch, inputs=torch.stack(batch['inputs']))  # as other collate functions do
    results = [two_views(copy.deepcopy(data), True) for data in (batch, stacked)]
    raw = stacked['inputs'].float()
    for result in results:
        assert torch.equal(result['inputs'], raw)
        expected = F.interpolate(raw, size=(16, 16), mode='bilinear')
        assert torch.equal(result['teacher_inputs'], expected)


def test_mixup_that_a_hook_switches_on_without_scores(classifiers):
    """mmpretrain leaves it out, without a word."""
    batch_augments = pytest.importorskip('mmpretrain.models').RandomBatchAugment
    two_views, batch = classifiers(dict(mean=[0, 0, 0], std=[1, 1, 1]), dict(to_rgb=True))
    two_views.batch_augments = batch_augments(dict(type='mmpretrain.Mixup', alpha=1.0))
    with pytest.warns(UserWarning, match='no scores.*set data_preprocessor.to_onehot=True'):
        result = two_views(copy.deepcopy(batch), True)
    assert torch.equal(result['inputs'], torch.stack(batch['inputs']).float())
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
