from functools import cache

import pytest
import torch

from mmkd_fm.functional import wttm_loss
from mmkd_fm.models import WTTMLoss
from mmkd_fm.models.alignment import Level, Tapped
from mmkd_fm.models.taps import Tap

LEVELS = (Level(27, 8), Level(27, 16))
forms = pytest.mark.parametrize('form', ['bernoulli', 'background_softmax'])


@pytest.fixture(scope='module')
def head(retinanet, build):
    """What a tap finds at a RetinaNet's head: `head('teacher', num_classes=3, levels=...)`."""

    @cache
    def built(num_classes, softmax):
        config = retinanet(num_classes=num_classes)
        if softmax:
            config['bbox_head']['loss_cls'] = dict(type='CrossEntropyLoss', use_sigmoid=False)
        return build(config).bbox_head

    def make(owner='student', num_classes=3, levels=LEVELS, softmax=False):
        return Tapped(owner, Tap('bbox_head', 0), built(num_classes, softmax), levels)

    return make


@pytest.fixture
def wttm(head):
    def make(**kwargs):
        loss = WTTMLoss(**kwargs)
        loss.connect(head('student'), head('teacher'))
        return loss

    return make


def scores():
    """Logits of two levels, 9 anchors and 3 classes."""
    return [torch.randn(2, 27, size, size, requires_grad=True) for size in (8, 4)]


def of_rows(form, student, teacher, gamma):
    return wttm_loss(rows(student), rows(teacher), gamma, form, reduction='none')


def rows(levels):
    """(anchor, location) pairs as rows of 3 classes."""
    return torch.cat([x.reshape(2, 9, 3, -1).transpose(2, 3).reshape(-1, 3) for x in levels])


@forms
@pytest.mark.parametrize('gamma', [0.5, 1.0])
def test_mean_of_the_function_where_the_teacher_is_equally_sure_everywhere(wttm, form, gamma):
    student = scores()
    teacher = [x.detach() * 0 + 0.7 for x in student]
    expected = of_rows(form, student, teacher, gamma).mean()
    loss = wttm(form=form, gamma=gamma)(student, teacher)['loss']
    torch.testing.assert_close(loss, expected)


@forms
def test_locations_are_weighed_by_the_teachers_confidence(wttm, form):
    student, teacher = scores(), scores()
    w = rows(teacher).sigmoid().amax(dim=-1)
    expected = (w * of_rows(form, student, teacher, 0.6)).sum() / w.sum()
    result = wttm(form=form, gamma=0.6)(student, teacher)
    torch.testing.assert_close(result['loss'], expected)
    torch.testing.assert_close(result['confidence'], w.mean())


@forms
def test_equal_logits_at_power_one_give_nothing(wttm, form):
    student = scores()
    loss = wttm(form=form, gamma=1.0)(student, [x.detach().clone() for x in student])['loss']
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert all(x.grad.abs().max() < 1e-7 for x in student)


@forms
def test_loss_does_not_grow_with_the_number_of_locations(wttm, form):
    student, teacher, loss = scores(), scores(), wttm(form=form)
    tiled = [[x.tile(1, 1, 2, 3) for x in levels] for levels in (student, teacher)]
    torch.testing.assert_close(loss(*tiled)['loss'], loss(student, teacher)['loss'])


@forms
def test_loss_does_not_depend_on_the_order_of_locations(wttm, form):
    student, teacher, loss = scores(), scores(), wttm(form=form)
    flipped = [[x.flip(-1) for x in levels] for levels in (student, teacher)]
    torch.testing.assert_close(loss(*flipped)['loss'], loss(student, teacher)['loss'])


def test_weight_scales_the_loss_and_not_the_monitors(wttm):
    student, teacher = scores(), scores()
    one, three = (wttm(loss_weight=w)(student, teacher) for w in (1, 3))
    torch.testing.assert_close(three['loss'], 3 * one['loss'])
    assert all(torch.equal(one[name], three[name]) for name in one if 'loss' not in name)


@forms
def test_gradient_draws_the_student_to_the_teacher(wttm, form):
    student, teacher, loss = scores(), scores(), wttm(form=form, gamma=1.0)
    before = loss(student, teacher)['loss']
    before.backward()
    moved = [(x - 0.1 * x.grad / x.grad.norm()).detach() for x in student]
    assert loss(moved, teacher)['loss'] < before


@forms
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_compared_in_float32(wttm, form, dtype):
    student, teacher = ([x.detach().to(dtype) for x in scores()] for _ in range(2))
    loss = wttm(form=form)
    with torch.autocast('cpu', torch.bfloat16, enabled=dtype == torch.bfloat16):
        value = loss(student, teacher)['loss']
    expected = loss([x.float() for x in student], [x.float() for x in teacher])['loss']
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)


@forms
def test_float64_logits_are_compared_in_float64(wttm, form):
    student, teacher = ([x.double() for x in scores()] for _ in range(2))
    w = rows(teacher).sigmoid().amax(dim=-1)
    expected = (w * of_rows(form, student, teacher, 0.7)).sum() / w.sum()
    loss = wttm(form=form)(student, teacher)['loss']
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


def test_class_logits_are_compared_as_in_the_paper():
    student, teacher = torch.randn(2, 6, 5)
    expected = 3 * wttm_loss(student, teacher, 0.4)
    assert torch.equal(WTTMLoss(gamma=0.4, loss_weight=3)(student, teacher), expected)


def test_classifiers_can_be_connected():
    student, teacher = torch.randn(2, 6, 5)
    loss = WTTMLoss()
    loss.connect(
        *(Tapped(owner, Tap('head'), torch.nn.Identity(), ()) for owner in ('student', 'teacher'))
    )
    result = loss(student, teacher)
    assert torch.equal(result['loss'], wttm_loss(student, teacher, 0.7))
    assert set(result) == {
        'loss', 'divergence', 'teacher_entropy', 'renyi_entropy', 'power_sum'
    }  # fmt: skip
    with pytest.raises(TypeError, match="tap='head' of a classifier or tap='bbox_head', index=0"):
        loss((student,), (teacher,))


def test_class_logits_of_other_classes_are_refused():
    with pytest.raises(ValueError, match=r'student \(6, 5\) and teacher \(6, 4\)'):
        WTTMLoss()(torch.randn(6, 5), torch.randn(6, 4))


def test_a_head_without_an_index_is_refused(head):
    with pytest.raises(ValueError, match="tap='bbox_head', index=0; but got"):
        WTTMLoss().connect(head(levels=()), head('teacher', levels=()))


@pytest.mark.parametrize('num_classes', [1, 2, 3, 4])
def test_boxes_are_not_taken_for_scores(head, num_classes):
    """Four sides an anchor divide by so many classes, or by twice as many."""
    strides = head().module.prior_generator.strides
    boxes = tuple(Level(9 * 4, stride) for stride, _ in strides)
    if num_classes == 4:  # as many channels as scores: nothing tells them apart
        WTTMLoss().connect(*(head(levels=boxes, num_classes=4) for _ in range(2)))
        return
    with pytest.raises(ValueError, match="tap='bbox_head', index=0; but got"):
        WTTMLoss().connect(*(head(levels=boxes, num_classes=num_classes) for _ in range(2)))


def test_a_teacher_that_sees_nothing_gives_a_finite_loss(wttm):
    student, teacher = scores(), [torch.full_like(x, -1e4) for x in scores()]
    loss = wttm()(student, teacher)['loss']
    loss.backward()
    assert loss.isfinite()
    assert all(x.grad.isfinite().all() for x in student)


def test_gamma_above_one_is_refused_unless_asked_for():
    student, teacher = torch.randn(2, 6, 5)
    with pytest.raises(ValueError, match=r'in \(0, 1\].*above 1 it is sharpened.*sharpen=True'):
        WTTMLoss(gamma=1.5)
    loss = WTTMLoss(gamma=1.5, sharpen=True)(student, teacher)
    assert torch.equal(loss, wttm_loss(student, teacher, 1.5))


@pytest.mark.parametrize('sharpen', [False, True])
@pytest.mark.parametrize('gamma', [0, -0.5, float('inf'), float('nan')])
def test_gamma_must_be_a_positive_number(gamma, sharpen):
    with pytest.raises(ValueError, match=r'gamma must be in \(0, 1\]'):
        WTTMLoss(gamma=gamma, sharpen=sharpen)


@pytest.mark.parametrize('owner', ['student', 'teacher'])
def test_a_softmax_with_background_and_sigmoids_are_not_compared(head, owner):
    other = 'teacher' if owner == 'student' else 'student'
    four = (Level(36, 8), Level(36, 16))
    heads = {owner: head(owner, softmax=True, levels=four), other: head(other)}
    with pytest.raises(ValueError, match='softmax that has a background class with sigmoids'):
        WTTMLoss().connect(heads['student'], heads['teacher'])


def test_other_classes_are_refused_and_the_class_map_is_named(head):
    four = (Level(36, 8), Level(36, 16))
    with pytest.raises(ValueError, match='student has 3 classes, the teacher 4.*class_map='):
        WTTMLoss().connect(head(), head('teacher', num_classes=4, levels=four))


def test_other_levels_are_refused(head):
    with pytest.raises(ValueError, match='levels, anchors and classes of both heads must be equal'):
        WTTMLoss().connect(head(), head('teacher', levels=LEVELS[:1]))


def test_what_is_no_dense_head_is_refused(head):
    neck = Tapped('student', Tap('neck'), torch.nn.Identity(), LEVELS)
    with pytest.raises(ValueError, match="tap='bbox_head', index=0; but got student 'neck'"):
        WTTMLoss().connect(neck, head('teacher'))
