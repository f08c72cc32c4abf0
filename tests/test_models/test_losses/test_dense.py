"""Logit losses on dense heads: their options, and the heads of mmdet."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from mmdet.models.task_modules import AnchorGenerator
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.structures import BaseDataElement

from mmkd_fm import functional
from mmkd_fm.hooks import DataCheckHook
from mmkd_fm.models import DISTLoss, DKDLoss, KDLoss, TTMLoss, WTTMLoss
from mmkd_fm.models.alignment import Level, Tapped, measure
from mmkd_fm.models.head_logits import read_head
from mmkd_fm.models.losses import dense
from mmkd_fm.models.losses.dense import padding
from mmkd_fm.models.taps import Tap

BACKGROUND = 'background_softmax'
LOSSES = {
    KDLoss: lambda s, t, w: functional.kd_loss(s, t, 4, 'bernoulli', w),
    TTMLoss: lambda s, t, w: functional.ttm_loss(s, t, 0.7, 'bernoulli', w),
    WTTMLoss: lambda s, t, w: functional.wttm_loss(s, t, 0.7, 'bernoulli', w),
    DKDLoss: lambda s, t, w: functional.dkd_loss(
        *(functional.with_background(z) for z in (s, t)),
        functional.with_background(t).argmax(1),
        weight=w,
    ),
    DISTLoss: lambda s, t, w: functional.dist_loss(
        *(functional.with_background(z) for z in (s, t)), weight=w
    ),
}
losses = pytest.mark.parametrize('loss', LOSSES)


class Head(torch.nn.Module):
    """What is read of a head."""

    def __init__(self, channels=3, sigmoid=True, activated=False, reg_max=None):
        super().__init__()
        self.cls_out_channels = channels
        self.loss_cls = torch.nn.Module()
        self.loss_cls.use_sigmoid = sigmoid
        self.loss_cls.activated = activated
        if reg_max is not None:
            self.reg_max = reg_max


def tapped(owner='student', channels=3, index=0, out=None, **kwargs):
    levels = tuple(Level(out or 2 * channels, stride) for stride in (8, 16))
    return Tapped(owner, Tap('bbox_head', index), Head(channels, **kwargs), levels)


def connected(loss, student=None, teacher=None, **kwargs):
    loss = loss(**kwargs)
    loss.connect(student or tapped(), teacher or tapped('teacher'))
    return loss


def scores(channels=3, seed=0, images=2):
    """Logits of two levels with two anchors."""
    torch.manual_seed(seed)
    return [2 * torch.randn(images, 2 * channels, 6, size, dtype=torch.float64) for size in (8, 4)]


def rows(levels, channels=3):
    return torch.cat([x.permute(0, 2, 3, 1).reshape(-1, channels) for x in levels])


@pytest.fixture
def outputs():
    student, teacher = scores(), scores(seed=1)
    return [x.requires_grad_() for x in student], teacher


@losses
@pytest.mark.parametrize('weighting', ['confidence', 'foreground', 'none'])
def test_the_loss_is_the_function_of_the_weighted_rows(loss, weighting, outputs):
    s, t = map(rows, outputs)
    confidence = t.sigmoid().amax(dim=1)
    weight = dict(
        confidence=confidence,
        foreground=(confidence >= 0.8).double(),
        none=torch.ones_like(confidence),
    )[weighting]
    assert 0 < weight.mean() <= 1
    result = connected(loss, weighting=weighting, threshold=0.8)(*outputs)
    expected = LOSSES[loss](s, t, weight)
    torch.testing.assert_close(result['loss'], expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(result['confidence'], confidence.mean(), rtol=1e-12, atol=0)
    grads = torch.autograd.grad(result['loss'], outputs[0])
    for grad, other in zip(grads, torch.autograd.grad(expected, outputs[0])):
        torch.testing.assert_close(grad, other, rtol=1e-9, atol=1e-15)


@losses
def test_the_foreground_is_what_reaches_the_threshold(loss, outputs):
    """A probability equal to it counts; one that is a rounding below does not."""
    student, teacher = outputs[0], [torch.zeros_like(x) for x in outputs[1]]
    found = {
        threshold: connected(loss, weighting='foreground', threshold=threshold)(student, teacher)
        for threshold in (0.5, 0.5 + 2**-50)
    }
    expected = connected(loss, weighting='none')(student, teacher)['loss']
    assert torch.equal(found[0.5]['loss'], expected) and expected > 0
    assert found[0.5 + 2**-50]['loss'] == 0


@pytest.mark.parametrize('loss', [KDLoss, TTMLoss, WTTMLoss, DKDLoss])
def test_normalisers(loss, outputs):
    values = {
        name: connected(loss, normaliser=name)(*outputs)['loss']
        for name in ('weight', 'rows', 'images')
    }
    weight = rows(outputs[1]).sigmoid().amax(dim=1)
    total = values['weight'] * weight.sum()
    torch.testing.assert_close(values['rows'] * len(weight), total, rtol=1e-12, atol=0)
    torch.testing.assert_close(values['images'] * 2, total, rtol=1e-12, atol=0)


@pytest.mark.parametrize('weighting', ['none', 'confidence', 'foreground'])
def test_kd_of_temperature_1_is_wttm_of_gamma_1(weighting, outputs):
    """The tables ran it as the second, `--distill kd` is the first."""
    found = []
    for loss, options in ((KDLoss, dict(temperature=1.0)), (WTTMLoss, dict(gamma=1.0))):
        student = [x.detach().clone().requires_grad_() for x in outputs[0]]
        value = connected(loss, weighting=weighting, **options)(student, outputs[1])['loss']
        found.append((value, *torch.autograd.grad(value, student)))
    assert found[0][0] > 0
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-15)


@losses
def test_the_weight_of_the_term_scales_its_loss_alone(loss, outputs):
    one, three = (connected(loss, loss_weight=weight)(*outputs) for weight in (1, 3))
    assert set(one) == set(three)
    for name in one:
        factor = 3 if name == 'loss' else 1
        torch.testing.assert_close(three[name], factor * one[name], rtol=1e-12, atol=0)


def test_a_teacher_that_sees_nothing_does_not_divide_by_nothing(outputs):
    student, teacher = outputs
    blind = [x - 30 for x in teacher]
    assert 0 < rows(blind).sigmoid().amax(dim=1).sum() < 1e-3
    by_weight, by_image = (
        connected(WTTMLoss, normaliser=name)(student, blind)['loss']
        for name in ('weight', 'images')
    )
    torch.testing.assert_close(by_weight, 2 * by_image, rtol=1e-12, atol=0)  # the sum itself


@losses
@pytest.mark.parametrize('weighting', ['confidence', 'foreground', 'none'])
def test_ignored_locations_may_be_anything(loss, weighting, outputs):
    student, teacher = outputs
    ignore = [torch.rand(x.shape[0], *x.shape[2:]) < 0.3 for x in student]
    kept = torch.cat([(~m)[..., None].expand(*m.shape, 2).flatten() for m in ignore])
    s, t = (rows(x)[kept] for x in outputs)
    confidence = t.sigmoid().amax(dim=1)
    weight = dict(
        confidence=confidence,
        foreground=(confidence >= 0.1).double(),
        none=torch.ones_like(confidence),
    )[weighting]
    expected = LOSSES[loss](s, t, weight)
    with torch.no_grad():
        for x, y, m in zip(student, teacher, ignore):
            x.masked_fill_(m[:, None], float('nan'))
            y.masked_fill_(m[:, None], float('inf'))
    result = connected(loss, weighting=weighting)(student, teacher, ignore=ignore)
    torch.testing.assert_close(result['loss'], expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(result['confidence'], confidence.mean(), rtol=1e-12, atol=0)
    for grad, m in zip(torch.autograd.grad(result['loss'], student), ignore):
        assert grad.isfinite().all()
        assert not grad[m[:, None].expand_as(grad)].any()
    assert all(value.isfinite() for value in result.values())


@losses
def test_with_all_locations_ignored_the_loss_is_zero_with_a_graph(loss, outputs):
    ignore = [torch.ones(x.shape[0], *x.shape[2:], dtype=torch.bool) for x in outputs[0]]
    result = connected(loss)(*outputs, ignore=ignore)
    result['loss'].backward()
    assert result['loss'] == 0
    assert all(torch.equal(x.grad, torch.zeros_like(x)) for x in outputs[0])
    # a monitor of 0 / 0 would stop the training as one that is not finite
    assert all(value.isfinite() for value in result.values())


@losses
def test_an_empty_batch_gives_zero_with_a_graph(loss):
    student, teacher = ([x[:0] for x in scores()] for _ in range(2))
    student = [x.requires_grad_() for x in student]
    result = connected(loss)(student, teacher)
    result['loss'].backward()
    assert result['loss'] == 0
    assert all(x.grad.shape == x.shape for x in student)


@losses
@pytest.mark.parametrize('weighting', ['confidence', 'foreground'])
def test_with_no_weight_at_all_the_monitors_stay_finite(loss, weighting, outputs):
    student, teacher = outputs
    result = connected(loss, weighting=weighting)(student, [x - 1e4 for x in teacher])
    assert result['loss'] == 0
    assert all(value.isfinite() for value in result.values())


@losses
@pytest.mark.parametrize('weighting', ['confidence', 'foreground', 'none'])
def test_a_teacher_that_is_not_a_number_is_not_passed_over(loss, weighting, outputs):
    outputs[1][0][0, 0, 0, 0] = float('nan')
    assert not connected(loss, weighting=weighting)(*outputs)['loss'].isfinite()


def samples(*sizes, batch=(48, 64)):
    return [BaseDataElement(metainfo=dict(img_shape=s, batch_input_shape=batch)) for s in sizes]


def test_padding_is_where_the_image_is_not():
    maps = [torch.empty(2, 1, 6, 8), torch.empty(2, 1, 3, 4)]
    fine, coarse = padding(maps, (8, 16), samples((48, 40), (20, 64)))
    assert fine.shape == (2, 6, 8)
    assert torch.equal(fine[0], (torch.arange(8) >= 5).expand(6, 8))  # 40 = 5 * 8
    assert torch.equal(fine[1], (torch.arange(6) >= 3)[:, None].expand(6, 8))  # 16 < 20 < 24
    assert torch.equal(coarse[0], (torch.arange(4) >= 3).expand(3, 4))
    assert torch.equal(coarse[1], (torch.arange(3) >= 2)[:, None].expand(3, 4))
    assert padding(maps, (8, 16), samples((48, 64), (48, 64))) is None
    assert padding(maps, (8, 16), [BaseDataElement()] * 2) is None


def test_padding_is_left_out_unless_asked_for(outputs):
    data_samples = samples((48, 40), (20, 64))
    cut = padding(outputs[0], (8, 16), data_samples)
    expected = connected(WTTMLoss)(*outputs, ignore=cut)
    assert torch.equal(connected(WTTMLoss)(*outputs, data_samples)['loss'], expected['loss'])
    whole = connected(WTTMLoss, ignore_padding=False)(*outputs, data_samples)
    assert torch.equal(whole['loss'], connected(WTTMLoss)(*outputs)['loss'])
    assert not torch.equal(whole['loss'], expected['loss'])


@losses
def test_a_class_map_compares_the_classes_that_both_have(loss):
    student = [x.requires_grad_() for x in scores(channels=4)]
    teacher = scores(channels=3, seed=1)
    heads = tapped(channels=4), tapped('teacher', channels=3)
    mapped = connected(loss, *heads, class_map=[2, -1, 0, -1])
    result = mapped(student, teacher)
    ours = [x.unflatten(1, (2, 4))[:, :, [0, 2]].flatten(1, 2) for x in student]
    theirs = [x.unflatten(1, (2, 3))[:, :, [2, 0]].flatten(1, 2) for x in teacher]
    two = connected(loss, tapped(channels=2), tapped('teacher', channels=2))
    torch.testing.assert_close(result['loss'], two(ours, theirs)['loss'], rtol=1e-12, atol=0)
    result['loss'].backward()
    for x in student:
        grad = x.grad.unflatten(1, (2, 4))
        assert not grad[:, :, [1, 3]].any()
        assert grad[:, :, [0, 2]].any()


def test_a_class_map_keeps_the_background():
    heads = (tapped(channels=4, sigmoid=False), tapped('teacher', channels=3, sigmoid=False))
    student, teacher = scores(channels=4), scores(channels=3, seed=1)
    result = connected(TTMLoss, *heads, class_map=[1, -1, 0])(student, teacher)
    s, t = rows(student, 4)[:, [0, 2, 3]], rows(teacher)[:, [1, 0, 2]]
    weight = 1 - rows(teacher)[:, [1, 0, 2]].softmax(dim=1)[:, -1]
    expected = functional.ttm_loss(s, t, 0.7, weight=weight)
    torch.testing.assert_close(result['loss'], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ('class_map', 'message'),
    [
        ([0, 1, 2], "index for each of the student's 4 classes, from 0 to 2"),
        ([0, 1, 2, 3], 'from 0 to 2'),
        ([0, 1, 2, -2], 'from 0 to 2'),
        ([-1] * 4, 'maps no class'),
    ],
)
def test_class_maps_that_do_not_fit_are_refused(class_map, message):
    with pytest.raises(ValueError, match=message):
        connected(KDLoss, tapped(channels=4), tapped('teacher', channels=3), class_map=class_map)


@losses
def test_a_class_map_of_classifiers(loss):
    student, teacher = torch.randn(5, 4), torch.randn(5, 3)
    metric = loss(class_map=[2, -1, 0, 1])
    of_student = dict(target=torch.tensor([0, 3, 2, 0, 2])) if loss is DKDLoss else {}
    selected = dict(target=torch.tensor([0, 2, 1, 0, 1])) if loss is DKDLoss else {}
    expected = loss()(student[:, [0, 2, 3]], teacher[:, [2, 0, 1]], **selected)
    assert torch.equal(metric(student, teacher, **of_student), expected)
    with pytest.raises(ValueError, match='class_map has an index for each'):
        metric(student[:, :2], teacher, **of_student)


def test_dkd_leaves_out_samples_whose_class_is_not_mapped():
    student, teacher = torch.randn(5, 4), torch.randn(5, 3)
    target = torch.tensor([0, 1, 2, 1, 3])  # the teacher has no class 1
    value = DKDLoss(class_map=[2, -1, 0, 1])(student, teacher, target=target)
    kept = [0, 2, 4]
    expected = DKDLoss()(
        student[kept][:, [0, 2, 3]], teacher[kept][:, [2, 0, 1]], target=torch.tensor([0, 1, 2])
    )
    torch.testing.assert_close(value, expected)


def test_dkd_leaves_out_what_is_ignored_besides_what_is_not_mapped():
    student, teacher = torch.randn(5, 4), torch.randn(5, 3)
    target = torch.tensor([0, 1, 2, 1, 3])  # the teacher has no class 1
    ignore = torch.tensor([True, False, False, True, False])
    value = DKDLoss(class_map=[2, -1, 0, 1])(student, teacher, ignore=ignore, target=target)
    kept = [2, 4]
    expected = DKDLoss()(
        student[kept][:, [0, 2, 3]], teacher[kept][:, [2, 0, 1]], target=torch.tensor([1, 2])
    )
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize('label', [-1, 4])
def test_dkd_with_a_class_map_refuses_labels_out_of_range(label):
    target = torch.tensor([0, 1, label])
    with pytest.raises(ValueError, match=r'labels must be from 0 to 3, .*check num_classes'):
        DKDLoss(class_map=[2, -1, 0, 1])(torch.zeros(3, 4), torch.zeros(3, 3), target=target)


def test_a_softmax_with_background_is_read_as_it_is(outputs):
    heads = tapped(sigmoid=False), tapped('teacher', sigmoid=False)
    s, t = map(rows, outputs)
    expected = functional.wttm_loss(s, t, 0.7, weight=1 - t.softmax(dim=1)[:, -1])
    result = connected(WTTMLoss, *heads)(*outputs)
    torch.testing.assert_close(result['loss'], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize('loss', [KDLoss, WTTMLoss, DKDLoss])
def test_probabilities_are_turned_into_logits(loss, outputs):
    activated = tapped(activated=True), tapped('teacher', activated=True)
    expected = connected(loss)(*outputs)
    result = connected(loss, *activated)(*([x.sigmoid() for x in levels] for levels in outputs))
    for name in expected:
        torch.testing.assert_close(result[name], expected[name], rtol=1e-7, atol=1e-12)
    grads = torch.autograd.grad(result['loss'], outputs[0])
    for grad, other in zip(grads, torch.autograd.grad(expected['loss'], outputs[0])):
        torch.testing.assert_close(grad, other, rtol=1e-6, atol=1e-12)


def test_a_head_of_probabilities_and_one_of_logits_can_be_compared(outputs):
    student, teacher = outputs
    result = connected(WTTMLoss, tapped(), tapped('teacher', activated=True))(
        student, [x.sigmoid() for x in teacher]
    )
    expected = connected(WTTMLoss)(student, teacher)['loss']
    torch.testing.assert_close(result['loss'], expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize('value', [0.0, 1.0])
def test_certain_probabilities_stay_finite(value):
    student = [torch.full_like(x, value, dtype=torch.float32).requires_grad_() for x in scores()]
    teacher = [1 - x.detach() for x in student]
    activated = tapped(activated=True), tapped('teacher', activated=True)
    loss = connected(WTTMLoss, *activated)(student, teacher)['loss']
    loss.backward()
    assert loss.isfinite()
    assert all(x.grad.isfinite().all() for x in student)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_probabilities_that_half_precision_rounds_to_1_have_a_gradient(dtype):
    """Such a student is wrong where the teacher is not sure, and has to learn it."""
    student = [torch.ones_like(x, dtype=dtype).requires_grad_() for x in scores()]
    teacher = [torch.full_like(x, 0.3) for x in student]
    activated = tapped(activated=True), tapped('teacher', activated=True)
    loss = connected(WTTMLoss, *activated)(student, teacher)['loss']
    loss.backward()
    assert all(x.grad.min() > 0 for x in student)
    # it is as sure as the least that is rounded so
    sure = [
        torch.full_like(x, 1 - torch.finfo(dtype).eps / 4, dtype=torch.float64) for x in student
    ]
    expected = connected(WTTMLoss, *activated)(sure, [x.double() for x in teacher])['loss']
    torch.testing.assert_close(loss.double(), expected, rtol=1e-3, atol=0)


# box distributions


def box_heads(reg_max=4, **kwargs):
    return [
        dict(
            scores=tapped(owner, reg_max=reg_max),
            boxes=tapped(owner, reg_max=reg_max, index=1, out=2 * 4 * (reg_max + 1)),
        )
        for owner in ('student', 'teacher')
    ]


def boxes(seed=0):
    return scores(channels=20, seed=seed)


def test_box_distributions_are_of_no_class(tmp_path):
    """A teacher with the classes in another order may teach boxes, not scores."""
    torch.save(dict(meta=dict(dataset_meta=dict(classes=('b', 'a')))), tmp_path / 'teacher.pth')

    class Data(list):
        metainfo = dict(classes=('a', 'b'))

    def check(loss):
        model = torch.nn.Sequential(loss)
        model.teacher = SimpleNamespace(checkpoint=str(tmp_path / 'teacher.pth'))
        DataCheckHook().before_train(
            SimpleNamespace(
                train_dataloader=SimpleNamespace(dataset=Data([0])), model=model, cfg=Config()
            )
        )

    check(connected(WTTMLoss, *box_heads()))
    with pytest.raises(ValueError, match='classes in another order'):
        check(connected(WTTMLoss))


@losses
def test_box_distributions_are_weighed_by_the_scores(loss):
    student, teacher = ([x.requires_grad_() for x in boxes()], boxes(1))
    of_teacher = scores(seed=2)
    weight = rows(of_teacher).sigmoid().amax(dim=1).repeat_interleave(4)
    s, t = rows(student, 5), rows(teacher, 5)
    more = dict(target=t.argmax(dim=1)) if loss is DKDLoss else {}
    expected = loss().metric(s, t, weight=weight, **more)
    mapped = connected(loss, *box_heads(), weighting='confidence')
    result = mapped(dict(scores=None, boxes=student), dict(scores=of_teacher, boxes=teacher))
    if loss is not DISTLoss:  # its sum is over the sides of a box, its weight that of the location
        expected = expected * 4
    torch.testing.assert_close(result['loss'], expected, rtol=1e-12, atol=0)
    result['loss'].backward()
    assert all(x.grad.abs().sum() > 0 for x in student)


def test_box_distributions_need_their_scores_and_the_same_bins():
    student, teacher = box_heads()
    with pytest.raises(ValueError, match="reads one output.*scores and boxes of both.*'boxes'"):
        connected(WTTMLoss, dict(boxes=student['boxes']), teacher)
    with pytest.raises(ValueError, match='have 5 bins, those of the teacher 9'):
        connected(WTTMLoss, student, box_heads(reg_max=8)[1])
    swapped = dict(scores=student['scores'], boxes=student['scores'])
    with pytest.raises(ValueError, match=r'4 \(reg_max \+ 1\) channels.*index=dict\(scores=0'):
        connected(WTTMLoss, swapped, teacher)


# anchors and levels that differ


def head_of(owner, anchors, strides=(8, 16), **kwargs):
    levels = tuple(Level(3 * anchors, stride) for stride in strides)
    return Tapped(owner, Tap('bbox_head', 0), Head(**kwargs), levels)


def maps_of(anchors, seed, sizes=(8, 4)):
    torch.manual_seed(seed)
    return [2 * torch.randn(2, 3 * anchors, 6, size, dtype=torch.float64) for size in sizes]


def best(levels):
    """The best anchor for each class at each location, anchors being the slow part of channels."""
    return [x.unflatten(1, (-1, 3)).amax(dim=1) for x in levels]


@losses
@pytest.mark.parametrize('anchors', [(9, 1), (1, 9), (2, 3), (4, 4)], ids=str)
def test_the_best_anchor_of_each_location_is_compared(loss, anchors):
    student = [x.requires_grad_() for x in maps_of(anchors[0], 0)]
    teacher = maps_of(anchors[1], 1)
    heads = head_of('student', anchors[0]), head_of('teacher', anchors[1])
    result = connected(loss, *heads, anchors='max')(student, teacher)
    reduced = connected(loss, head_of('student', 1), head_of('teacher', 1))
    expected = reduced(best(student), best(teacher))
    assert set(result) == set(expected)
    for name in result:
        torch.testing.assert_close(result[name], expected[name], rtol=1e-12, atol=1e-15)
    grads = torch.autograd.grad(result['loss'], student)
    for x, grad, other in zip(student, grads, torch.autograd.grad(expected['loss'], student)):
        torch.testing.assert_close(grad, other, rtol=1e-9, atol=1e-15)
        of_anchors, values = grad.unflatten(1, (-1, 3)), x.detach().unflatten(1, (-1, 3))
        chosen = values.argmax(dim=1, keepdim=True)
        assert not of_anchors.scatter(1, chosen, 0).any()
        assert of_anchors.gather(1, chosen).abs().sum() > 0


def test_pieces_of_heads_with_many_anchors_stay_small(monkeypatch):
    heads = head_of('student', 1), head_of('teacher', 9)
    student, teacher = [x.requires_grad_() for x in maps_of(1, 0)], maps_of(9, 1)
    expected = connected(WTTMLoss, *heads, anchors='max')(student, teacher)['loss']
    monkeypatch.setattr(dense, 'PIECE', 9 * 3 * 8)  # elements of a line of the teacher
    loss = connected(WTTMLoss, *heads, anchors='max')
    sizes, metric = [], loss.metric
    monkeypatch.setattr(
        loss, 'metric', lambda s, *rest: (sizes.append(len(s)), metric(s, *rest))[1]
    )
    torch.testing.assert_close(loss(student, teacher)['loss'], expected, rtol=1e-12, atol=0)
    assert sizes == [8] * 12 + [8] * 6  # a line of 8 locations; two lines of 4


def test_best_anchors_of_probabilities_and_of_shared_classes():
    student, teacher = maps_of(9, 0), maps_of(1, 1)
    heads = head_of('student', 9), head_of('teacher', 1, activated=True)
    options = dict(anchors='max', class_map=[2, -1, 0])
    result = connected(KDLoss, *heads, **options)(student, [x.sigmoid() for x in teacher])
    reduced = connected(KDLoss, head_of('student', 1), head_of('teacher', 1), class_map=[2, -1, 0])
    expected = reduced(best(student), teacher)['loss']
    torch.testing.assert_close(result['loss'], expected, rtol=1e-7, atol=0)


def test_chosen_levels_are_compared_with_those_of_the_same_stride():
    heads = head_of('student', 2, (8, 16, 32)), head_of('teacher', 2, (16, 32, 64))
    student, teacher = maps_of(2, 0, (16, 8, 4)), maps_of(2, 1, (8, 4, 2))
    student = [x.requires_grad_() for x in student]
    ignore = [torch.rand(2, 6, size) < 0.3 for size in (16, 8, 4)]
    result = connected(WTTMLoss, *heads, levels=[1, 2])(student, teacher, ignore=ignore)
    expected = connected(WTTMLoss, head_of('student', 2), head_of('teacher', 2))(
        student[1:], teacher[:2], ignore=ignore[1:]
    )
    assert all(torch.equal(result[name], expected[name]) for name in expected)
    result['loss'].backward()
    assert student[0].grad is None


def test_padding_of_chosen_levels():
    heads = head_of('student', 2, (4, 8, 16)), head_of('teacher', 2, (8, 16))
    student, teacher = maps_of(2, 0, (16, 8, 4)), maps_of(2, 1)
    data_samples = samples((48, 40), (20, 64))
    result = connected(WTTMLoss, *heads, levels=[1, 2])(student, teacher, data_samples)
    expected = connected(WTTMLoss, head_of('student', 2), head_of('teacher', 2))(
        student[1:], teacher, data_samples
    )
    assert torch.equal(result['loss'], expected['loss'])


@pytest.mark.parametrize(
    ('teacher', 'options', 'message'),
    [
        (dict(anchors=1), {}, r"9@8, 9@16.*1@8, 1@16\. anchors='max' compares the best.*Or distil"),
        (dict(anchors=9, strides=(16, 32)), {}, r'levels=\[1\] takes the levels.*Or distil'),
        (dict(anchors=1, strides=(16, 32)), {}, r"levels=\[1\] takes.*anchors='max' compares"),
        (dict(anchors=1, strides=(16, 32)), dict(levels=[1]), r"16\. anchors='max' compares"),
        (dict(anchors=1, strides=(16, 32)), dict(anchors='max'), r'32\. levels=\[1\] takes.*Or d'),
        (dict(anchors=9, strides=(16, 32)), dict(levels=[0]), r'Choose levels= among \[1\]'),
        (dict(anchors=9, strides=(32, 64)), {}, r'64\. Distil features instead'),
        (dict(anchors=1, sigmoid=False), dict(anchors='max'), 'a softmax that has a background'),
    ],
)
def test_grids_that_differ_are_refused_with_what_can_be_done(teacher, options, message):
    heads = head_of('student', 9), head_of('teacher', **teacher)
    with pytest.raises(ValueError, match=message):
        connected(WTTMLoss, *heads, **options)


def test_a_softmax_has_no_best_anchor():
    heads = [head_of(owner, 2, sigmoid=False) for owner in ('student', 'teacher')]
    with pytest.raises(ValueError, match=r"anchors='max'.* which sigmoids of dense heads have"):
        connected(WTTMLoss, *heads, anchors='max')


def test_box_distributions_are_those_of_all_anchors():
    with pytest.raises(ValueError, match='leave anchors= out'):
        connected(WTTMLoss, *box_heads(), anchors='max')


def test_box_distributions_of_some_levels_are_compared_by_their_strides():
    student, teacher = box_heads()
    # the teacher's levels have the strides 4 and 8: its second belongs to the student's first
    teacher = {
        name: dataclasses.replace(
            part, levels=tuple(Level(o.channels, o.stride // 2) for o in part.levels)
        )
        for name, part in teacher.items()
    }
    with pytest.raises(ValueError, match=r'levels=\[0\] takes the levels that both have'):
        connected(WTTMLoss, student, teacher)
    ours, theirs, of_teacher = boxes(), boxes(1)[::-1], scores(seed=2)[::-1]
    ours = [x.requires_grad_() for x in ours]
    options = dict(levels=[0], weighting='none')
    some = connected(WTTMLoss, student, teacher, **options)
    result = some(dict(scores=None, boxes=ours), dict(scores=of_teacher, boxes=theirs))
    s, t = rows(ours[:1], 5), rows(theirs[1:], 5)
    expected = WTTMLoss().metric(s, t, weight=s.new_ones(len(s)))
    torch.testing.assert_close(result['loss'], 4 * expected, rtol=1e-12, atol=0)
    result['loss'].backward()
    assert ours[0].grad.abs().sum() > 0 and ours[1].grad is None


def test_a_head_with_anchors_teaches_one_without(retinanet, gfl, write_teacher, raw_batch, loss_of):
    from mmkd_fm.registry import MODELS

    wttm = dict(type='mmkd_fm.WTTMLoss', tap='bbox_head', index=0)
    config = dict(type='mmkd_fm.Distiller', student=gfl(), teacher=write_teacher(retinanet()))
    with pytest.raises(ValueError, match="anchors='max' compares the best anchor"):
        MODELS.build(dict(config, losses=dict(wttm=wttm)))
    model = MODELS.build(dict(config, losses=dict(wttm=dict(wttm, anchors='max'))))
    model.load_teacher()
    _, result = loss_of(model, raw_batch())
    result['loss_wttm'].backward()
    assert result['loss_wttm'] > 0
    assert model.bbox_head.gfl_cls.weight.grad.abs().sum() > 0


NINE = dict(scales=[4, 5, 6.5], ratios=[0.5, 1, 2])


def anchored(owner, strides=(8, 16), sigmoid=True, **generator):
    """A head with the boxes of mmdet's anchors."""
    generator = AnchorGenerator(strides=list(strides), **generator)
    head = head_of(owner, generator.num_base_priors[0], (8, 16), sigmoid=sigmoid)
    head.module.prior_generator = generator
    return head


@pytest.mark.parametrize(
    ('teacher', 'differing'),
    [
        (NINE, None),
        (dict(NINE, ratios=[0.5, 1.0001, 2]), None),
        (dict(NINE, strides=(16, 32)), None),  # of twice the resolution: in pixels of the student
        (
            dict(NINE, ratios=[0.4, 1, 2.5]),
            r'stride 8 anchor 0 spans 5\.66 x 2\.83 .* 6\.32 x 2\.53',
        ),
        (dict(NINE, ratios=[2, 1, 0.5]), 'stride 8 anchor 0'),  # the same in another order
        (dict(NINE, scales=[8, 10, 13]), 'stride 8 anchor 0'),
        (dict(NINE, center_offset=0.5), 'stride 8 anchor 0'),
    ],
    ids=str,
)
def test_anchors_of_other_boxes_are_refused(teacher, differing):
    heads = anchored('student', **NINE), anchored('teacher', **teacher)
    connected(WTTMLoss, *heads, anchors='max')
    if differing is None:
        connected(WTTMLoss, *heads)
        return
    message = rf"{differing} .*anchors='max' compares the best anchor .*Or distil features"
    with pytest.raises(ValueError, match=message):
        connected(WTTMLoss, *heads)
    with pytest.raises(ValueError, match='stride 16 anchor 0'):
        connected(WTTMLoss, *heads, levels=[1])
    softmax = [
        anchored(owner, sigmoid=False, **boxes)
        for owner, boxes in (('student', NINE), ('teacher', teacher))
    ]
    with pytest.raises(ValueError, match=r'anchor_generator\)\. Distil features'):
        connected(WTTMLoss, *softmax)


def test_single_anchors_and_heads_without_are_compared_whatever_their_boxes():
    """A single anchor says where it is: GFL for small objects is as GFL."""
    one = dict(octave_base_scale=8, scales_per_octave=1, ratios=[1])
    connected(WTTMLoss, anchored('student', **one), anchored('teacher', **dict(one, ratios=[2])))
    smaller = anchored('teacher', **dict(one, octave_base_scale=4))
    connected(WTTMLoss, anchored('student', **one), smaller)
    connected(WTTMLoss, anchored('student', **one), head_of('teacher', 1))
    connected(WTTMLoss, head_of('student', 9), anchored('teacher', **NINE))


def test_anchors_of_other_boxes_are_refused_in_a_distiller(distiller, retinanet, write_teacher):
    other = retinanet()
    other.bbox_head.anchor_generator.update(ratios=[0.3, 1.0, 3.0])
    wttm = dict(type='mmkd_fm.WTTMLoss', tap='bbox_head', index=0)
    with pytest.raises(ValueError, match=r'anchor 0 spans 5\.66 x 2\.83 .* 7\.30 x 2\.19'):
        distiller(losses=dict(wttm=wttm), teacher=write_teacher(other), load=False)


@pytest.mark.parametrize(
    ('objectness', 'told'),
    [
        ((False, False), None),
        ((True, True), 'student and the teacher are'),
        ((True, False), 'student are'),
        ((False, True), 'teacher are'),
    ],
)
@pytest.mark.parametrize('mark', ['loss_obj', 'center_prior'])
def test_heads_with_objectness_are_told_of(mark, objectness, told, caplog):
    heads = head_of('student', 1), head_of('teacher', 1)
    for head, has in zip(heads, objectness):
        if has:
            setattr(head.module, mark, torch.nn.Identity())
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    connected(WTTMLoss, *heads)(maps_of(1, 0), maps_of(1, 1))
    logger.removeHandler(caplog.handler)
    warnings = [r.getMessage() for r in caplog.records if r.levelname == 'WARNING']
    assert len(warnings) == (told is not None)
    assert told is None or f'bbox_head: the class scores of the {told} trained' in warnings[0]


# monitors


def test_monitors_are_the_weighted_means_of_the_theory(outputs):
    s, t = map(rows, outputs)
    gamma, form = 0.4, functional.get_form('bernoulli')
    w = t.sigmoid().amax(dim=1)
    result = connected(WTTMLoss, gamma=gamma)(*outputs)
    expected = dict(
        divergence=form.kl(s, gamma * t),
        teacher_entropy=form.entropy(t),
        renyi_entropy=form.renyi_entropy(s, gamma),
        power_sum=form.power_sum(t, gamma),
    )
    for name, values in expected.items():
        mean = (w * values.mean(dim=1)).sum() / w.sum()
        torch.testing.assert_close(result[name], mean, rtol=1e-12, atol=0)
        assert not result[name].requires_grad


@pytest.mark.parametrize('weighting', ['confidence', 'foreground'])
def test_monitors_of_a_teacher_that_sees_little_are_still_means(weighting, outputs):
    """Also where all weights sum to less than 1, which the loss is not divided by."""
    student, teacher = outputs[0], [x - 12 for x in outputs[1]]
    t = rows(teacher)
    confidence = t.sigmoid().amax(dim=1)
    threshold = confidence.max().item()
    w = confidence if weighting == 'confidence' else (confidence >= threshold).double()
    assert 0 < w.sum() <= 1
    loss = connected(WTTMLoss, weighting=weighting, threshold=threshold)
    result = loss(student, teacher)
    entropy = functional.get_form('bernoulli').entropy(t).mean(dim=1)
    torch.testing.assert_close(
        result['teacher_entropy'], (w * entropy).sum() / w.sum(), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize('temperature', [1, 4])
def test_the_divergence_of_kd_is_its_loss_over_the_squared_temperature(temperature, outputs):
    result = connected(KDLoss, form=BACKGROUND, temperature=temperature)(*outputs)
    torch.testing.assert_close(
        temperature**2 * result['divergence'], result['loss'].detach(), rtol=1e-12, atol=0
    )


@losses
def test_monitors_can_be_left_out(loss, outputs):
    plain = connected(loss, diagnostics=False)
    assert set(plain(*outputs)) == {'loss', 'confidence'}
    assert plain.values == {}


@losses
def test_values_are_kept_only_when_asked_for(loss, outputs):
    measured = connected(loss)
    measured(*outputs)
    assert measured.values == {}
    measured.keep_values = True
    result = measured(*outputs)
    assert set(measured.values) == set(result) - {'loss', 'confidence'}
    for values in measured.values.values():
        assert values.ndim == 1
        assert not values.requires_grad


def test_monitors_of_large_maps_look_at_some_of_the_rows(outputs):
    student, teacher = ([x.tile(1, 1, 8, 16) for x in levels] for levels in outputs)
    measured = connected(WTTMLoss, gamma=0.4, weighting='none')
    measured.keep_values = True
    result = measured(student, teacher)
    assert 4096 <= len(measured.values['power_sum']) < 2 * 4096
    exact = functional.get_form('bernoulli').power_sum(rows(teacher), 0.4).mean()
    assert result['power_sum'].item() == pytest.approx(exact.item(), rel=0.05)


# options


def test_dist_takes_the_foreground_unless_told_otherwise(outputs):
    values = {
        name: connected(DISTLoss, **dict(weighting=name) if name else {})(*outputs)['loss'].item()
        for name in ('', 'foreground', 'confidence')
    }
    assert values[''] == values['foreground'] != values['confidence']


@losses
@pytest.mark.parametrize(
    ('option', 'message'),
    [
        (dict(form='sigmoid'), "unknown form 'sigmoid'; valid forms: background_softmax"),
        (dict(weighting='iou'), 'valid weightings: confidence, foreground, none'),
        (dict(normaliser='anchors'), 'valid normalisers: images, rows, weight'),
        (dict(anchors='mean'), "unknown anchors 'mean'; valid anchors: max, same"),
        (dict(threshold=1.5), r'threshold must be in \[0, 1\], but got 1.5'),
    ],
)
def test_bad_options_list_the_valid_ones(loss, option, message):
    with pytest.raises(ValueError, match=message):
        loss(**option)


@pytest.mark.parametrize('loss', [DKDLoss, DISTLoss])
def test_bernoullis_are_refused_by_what_compares_classes(loss):
    with pytest.raises(ValueError, match='compares the classes with one another'):
        loss(form='bernoulli')


# the heads of mmdet

HEADS = {
    'retinanet/retinanet_r50_fpn_1x_coco': (True, False, 9),
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco': (True, False, 1),
    'atss/atss_r50_fpn_1x_coco': (True, False, 1),
    'gfl/gfl_r50_fpn_1x_coco': (True, False, 1),
    'paa/paa_r50_fpn_1x_coco': (True, False, 1),
    'tood/tood_r50_fpn_1x_coco': (True, True, 1),
    'vfnet/vfnet_r50_fpn_1x_coco': (True, False, 1),
    'reppoints/reppoints-moment_r50_fpn_1x_coco': (True, False, 1),
    'yolof/yolof_r50-c5_8xb8-1x_coco': (True, False, 5),
    'yolox/yolox_s_8xb8-300e_coco': (True, False, 1),
    'rtmdet/rtmdet_s_8xb32-300e_coco': (True, False, 1),
    'ssd/ssd300_coco': (False, False, (4, 6, 6, 6, 4, 4)),
}


@pytest.fixture(scope='module')
def mmdet_head(mmdet_scope):
    """The class scores of a small head of mmdet: `mmdet_head(name)`, the head and its maps."""
    from mmdet.registry import MODELS
    from mmengine.hub import get_config

    def make(name):
        config = get_config(f'mmdet::{name}.py').model.bbox_head
        sizes = (38, 19, 10, 5, 3, 1) if 'ssd' in name else (32, 16, 8, 4, 2)
        if 'ssd' in name:
            config.update(in_channels=[32] * 6)
        else:
            config.update(in_channels=32)
            sizes = sizes[: dict(yolof=1, yolox=3, rtmdet=3).get(name.split('/')[0], 5)]
        for key in ('feat_channels', 'point_feat_channels'):
            config.update({key: 32} if key in config else {})
        config.update(num_classes=3)
        maps = [torch.randn(2, 32, size, size) for size in sizes]
        torch.manual_seed(0)
        head = MODELS.build(config).eval()
        with torch.no_grad():
            for p in head.parameters():
                p.add_(0.1 * torch.randn_like(p))
            return head, head(tuple(maps))[0]

    return make


@pytest.mark.parametrize('name', HEADS)
def test_what_a_head_gives_is_read_from_it(name, mmdet_head):
    sigmoid, activated, anchors = HEADS[name]
    head, maps = mmdet_head(name)
    seen = Tapped('student', Tap('bbox_head', 0), head, measure(maps, 256))
    found = read_head(seen, 'WTTMLoss')
    assert (found.sigmoid, found.activated) == (sigmoid, activated)
    assert found.channels == (3 if sigmoid else 4)
    counts = tuple(count for count, _ in found.grid)
    assert counts == (anchors if isinstance(anchors, tuple) else (anchors,) * len(maps))
    assert hasattr(head, 'loss_obj') == ('yolox' in name)
    if anchors != 1:
        assert [len(boxes) for boxes in found.boxes] == list(counts)
    if activated:
        assert all(0 <= x.min() <= x.max() <= 1 for x in maps)
    else:
        assert min(x.min() for x in maps) < 0


@pytest.mark.parametrize('name', HEADS)
@losses
def test_a_head_that_agrees_with_its_teacher_has_nothing_to_learn(name, loss, mmdet_head):
    head, maps = mmdet_head(name)
    seen = [
        Tapped(owner, Tap('bbox_head', 0), head, measure(maps, 256))
        for owner in ('student', 'teacher')
    ]
    options = dict(gamma=1.0) if issubclass(loss, TTMLoss) else {}
    options = dict(options, weighting='none')
    same = connected(loss, *seen, **options)
    assert same(maps, [x.clone() for x in maps])['loss'].item() == pytest.approx(0, abs=1e-4)
    student = [(0.7 * x).requires_grad_() for x in maps]
    result = same(student, maps)
    result['loss'].backward()
    assert result['loss'] > 1e-4
    assert all(x.grad.isfinite().all() for x in student)
    assert any(x.grad.abs().sum() > 0 for x in student)


def test_query_based_heads_are_refused(mmdet_scope):
    from mmdet.registry import MODELS
    from mmengine.hub import get_config

    config = get_config('mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py').model
    head = MODELS.build(dict(config.bbox_head, share_pred_layer=False, num_pred_layer=6))
    queries = Tapped('student', Tap('bbox_head', 0), head, (Level(1, 1),))
    with pytest.raises(ValueError, match='needs the classification scores of a dense head'):
        connected(WTTMLoss, queries, queries)


def test_guided_anchors_do_not_teach_by_their_scores(mmdet_scope):
    """In eval mode their logits are 0 where no object is expected: no score, and no agreement."""
    from mmdet.registry import MODELS
    from mmengine.hub import get_config

    name = 'guided_anchoring/ga-retinanet_r50-caffe_fpn_1x_coco.py'
    config = get_config(f'mmdet::{name}').model.bbox_head
    head = MODELS.build(dict(config, num_classes=3))
    levels = (Level(3, 8), Level(3, 16))
    seen = {o: Tapped(o, Tap('bbox_head', 0), head, levels) for o in ('student', 'teacher')}
    with pytest.raises(
        ValueError, match='WTTMLoss: outside of training GARetinaHead .* instead: ta'
    ):
        connected(WTTMLoss, seen['student'], seen['teacher'])
    assert read_head(seen['student'], 'WTTMLoss').channels == 3


def test_a_tap_of_scores_and_boxes_in_a_distiller(distiller, raw_batch, loss_of):
    losses = dict(
        boxes=dict(
            type='mmkd_fm.WTTMLoss',
            tap=dict(scores='bbox_head', boxes='bbox_head'),
            index=dict(scores=0, boxes=1),
            gamma=0.5,
        )
    )
    model = distiller('gfl', losses)
    total, result = loss_of(model, raw_batch())
    total.backward()
    assert result['loss_boxes'] > 0
    assert result['boxes_power_sum'] > 1
    with pytest.raises(ValueError, match='names other outputs than tap'):
        distiller('gfl', dict(x=dict(losses['boxes'], tap='bbox_head')))
    with pytest.raises(ValueError, match='compares the box distributions of GFL-type heads'):
        distiller('retinanet', losses)


def test_padded_images_of_a_batch_are_masked_in_a_distiller(distiller, raw_batch, loss_of):
    wttm = dict(type='mmkd_fm.WTTMLoss', tap='bbox_head', index=0)
    values = []
    for ignore_padding in (True, False):
        model = distiller(losses=dict(x=dict(wttm, ignore_padding=ignore_padding)), model_seed=0)
        values.append(loss_of(model, raw_batch())[1]['x_confidence'].item())
    assert values[0] != values[1]


def test_a_teacher_that_gives_nan_is_named(distiller, raw_batch, loss_of):
    model = distiller(losses=dict(x=dict(type='mmkd_fm.WTTMLoss', tap='bbox_head', index=0)))
    with torch.no_grad():
        model.teacher.model.bbox_head.retina_cls.bias[0] = float('nan')
    with pytest.raises(FloatingPointError, match="loss_x.*teacher gives infinity or NaN.*'bbox_h"):
        loss_of(model, raw_batch())


@pytest.mark.slow
def test_ssd_whose_input_has_a_smallest_size_is_distilled(mmdet_scope, write_teacher):
    from mmdet.structures import DetDataSample
    from mmengine.hub import get_config
    from mmengine.structures import InstanceData

    from mmkd_fm.registry import MODELS

    config = get_config('mmdet::ssd/ssd300_coco.py').model
    config.backbone.init_cfg = None
    teacher = write_teacher(config)
    losses = dict(wttm=dict(type='mmkd_fm.WTTMLoss', tap='bbox_head', index=0))
    model = MODELS.build(
        dict(type='mmkd_fm.Distiller', student=config, teacher=teacher, losses=losses)
    )
    model.load_teacher()
    for detector in (model.student, model.teacher.model):
        with torch.no_grad():
            detector.neck.l2_norm.weight.fill_(20)  # whatever is in memory before init_weights
    assert model.distill_losses['wttm'].dense.form == 'softmax'
    sizes = dict.fromkeys(('img_shape', 'pad_shape', 'batch_input_shape'), (300, 300))
    sample = DetDataSample(metainfo=sizes)
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[20.0, 20, 200, 220]]), labels=torch.tensor([3])
    )
    image = torch.randn(1, 3, 300, 300)
    result = model(image, [sample], mode='loss', teacher_inputs=image)
    result['loss_wttm'].backward()
    assert result['loss_wttm'] > 0
    assert model.student.bbox_head.cls_convs[0][0].weight.grad.abs().sum() > 0


def test_taps_that_a_plain_forward_does_not_reach_are_refused(mmdet_scope):
    from mmengine.hub import get_config

    from mmkd_fm.registry import MODELS

    config = get_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py').model
    config.backbone.update(depth=18, base_channels=8, stem_channels=8, init_cfg=None)
    config.neck.update(in_channels=[8, 16, 32, 64])
    losses = dict(wttm=dict(type='mmkd_fm.WTTMLoss', tap='rpn_head', index=0))
    with pytest.raises(
        ValueError, match=r'student \(FasterRCNN\) .* as far as rpn_head.*roi_head.bbox_head'
    ):
        MODELS.build(
            dict(
                type='mmkd_fm.Distiller',
                student=config,
                teacher=dict(config=dict(model=config, default_scope='mmdet'), checkpoint='x.pth'),
                losses=losses,
            )
        )
