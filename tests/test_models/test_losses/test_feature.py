import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmkd_fm import functional
from mmkd_fm.models import CosineLoss, CWDLoss, MSELoss, PKDLoss
from mmkd_fm.models.alignment import Level, Tapped
from mmkd_fm.models.taps import Tap

SIZES = (16, 8, 4)


def tapped(owner, channels):
    levels = tuple(Level(channels, 128 // size) for size in SIZES)
    return Tapped(owner, Tap('neck'), nn.Identity(), levels)


def pyramid(channels, dtype=torch.float32):
    return tuple(torch.randn(2, channels, size, size).to(dtype) for size in SIZES)


@pytest.mark.parametrize(
    ('module', 'function'),
    [
        (PKDLoss(), functional.pkd_loss),
        (CWDLoss(), functional.cwd_loss),
        (CWDLoss(temperature=4), lambda s, t: functional.cwd_loss(s, t, 4)),
        (MSELoss(), functional.mse_loss),
        (CosineLoss(), functional.cosine_loss),
    ],
)
def test_the_module_is_the_function(module, function):
    student, teacher = pyramid(4), pyramid(4)
    assert torch.equal(module(student[0], teacher[0]), function(student[0], teacher[0]))
    module.connect(tapped('student', 4), tapped('teacher', 4))
    expected = sum(function(s, t) for s, t in zip(student, teacher))
    assert torch.equal(module(student, teacher), expected)


def test_only_the_chosen_levels_count_with_their_weight():
    student, teacher = pyramid(4), pyramid(4)
    loss = PKDLoss(loss_weight=3, levels=[0, 2])
    loss.connect(tapped('student', 4), tapped('teacher', 4))
    expected = 3 * sum(functional.pkd_loss(student[i], teacher[i]) for i in (0, 2))
    torch.testing.assert_close(loss(student, teacher), expected)


def test_students_channels_are_projected_to_the_teachers():
    student, teacher = pyramid(4), pyramid(6)
    loss = MSELoss()
    loss.connect(tapped('student', 4), tapped('teacher', 6))
    expected = sum(
        functional.mse_loss(project(s), t)
        for project, s, t in zip(loss.projections, student, teacher)
    )
    assert [p.weight.shape[:2] for p in loss.projections] == [(6, 4)] * 3
    assert torch.equal(loss(student, teacher), expected)


@pytest.mark.parametrize('loss', [PKDLoss, CWDLoss, MSELoss, CosineLoss])
def test_equal_channels_are_projected_on_request(loss):
    student, teacher = pyramid(4), pyramid(4)
    plain, projected = loss(), loss(project=True)
    for one in (plain, projected):
        one.connect(tapped('student', 4), tapped('teacher', 4))
    assert not list(plain.parameters()) and len(list(projected.parameters())) == 6
    value = projected(student, teacher)
    assert torch.equal(value, plain(student, teacher))  # it begins as the identity
    value.backward()
    assert all(p.weight.grad.abs().sum() > 0 for p in projected.projections)


def one_level(owner, channels):
    return Tapped(owner, Tap('backbone.layer4'), nn.Identity(), (Level(channels, 8),))


@pytest.mark.parametrize('loss', [PKDLoss, CWDLoss, MSELoss, CosineLoss])
@pytest.mark.parametrize(('channels', 'project'), [(6, False), (4, True)])
def test_single_maps_are_projected_as_those_of_a_pyramid(loss, channels, project):
    """What a tap gives as a bare tensor is a pyramid of one level."""
    (student, *_), (teacher, *_) = pyramid(4), pyramid(channels)
    loss = loss(loss_weight=2, project=project)
    loss.connect(one_level('student', 4), one_level('teacher', channels))
    nn.init.normal_(loss.projections[0].weight)  # no longer the identity
    value = loss(student, teacher)
    assert torch.equal(value, loss((student,), [teacher]))
    assert torch.equal(value, 2 * loss.metric(loss.projections[0](student), teacher))
    value.backward()
    assert loss.projections[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize('loss', [PKDLoss, CWDLoss, MSELoss, CosineLoss])
def test_the_students_map_is_resized_to_the_teachers(loss):
    student, teacher = pyramid(4), pyramid(6)
    larger = [F.interpolate(x, scale_factor=1.5, mode='nearest') for x in teacher]
    loss = loss()
    loss.connect(tapped('student', 4), tapped('teacher', 6))
    expected = sum(
        loss.metric(F.interpolate(project(s), t.shape[2:], mode='bilinear'), t)
        for project, s, t in zip(loss.projections, student, larger)
    )
    torch.testing.assert_close(loss(student, larger), expected)


@pytest.mark.parametrize('loss', [PKDLoss(), CWDLoss(), MSELoss(), CosineLoss()])
def test_the_metric_is_float32_under_autocast(loss):
    student, teacher = (torch.randn(2, 4, 8, 8).bfloat16() for _ in range(2))
    with torch.autocast('cpu', torch.bfloat16):
        value = loss(student, teacher)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(student.float(), teacher.float()))


@pytest.mark.parametrize('loss', [PKDLoss(), CWDLoss(), MSELoss(), CosineLoss()])
def test_the_metric_of_float64_maps_is_float64(loss):
    assert loss(*(torch.randn(2, 4, 8, 8).double() for _ in range(2))).dtype == torch.float64


@pytest.mark.parametrize('temperature', [0, -1])
def test_temperatures_must_be_positive(temperature):
    with pytest.raises(ValueError, match='temperature must be above 0'):
        CWDLoss(temperature=temperature)
