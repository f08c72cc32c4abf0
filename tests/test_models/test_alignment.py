import pytest
import torch
from torch import nn

from mmkd_fm.models.alignment import (
    Level,
    Tapped,
    left_out,
    match_size,
    measure,
    pair_levels,
    projection,
)
from mmkd_fm.models.taps import Tap

P3_TO_P7 = (8, 16, 32, 64, 128)


def tapped(owner, channels, strides):
    levels = tuple(Level(channels, stride) for stride in strides)
    return Tapped(owner, Tap('neck'), nn.Identity(), levels)


@pytest.mark.parametrize('kind', ['retinanet', 'gfl'])
def test_pyramids_are_measured(distiller, kind):
    model = distiller(kind, load=False)
    assert model.distill_losses['fmkt'].pairs == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert model.distill_losses['pkd'].pairs == [(i, i) for i in range(5)]
    projections = model.distill_losses['pkd'].projections
    assert [(p.in_channels, p.out_channels, p.kernel_size) for p in projections] == [
        (16, 24, (1, 1))
    ] * 5


@pytest.mark.parametrize('kind', ['retinanet', 'gfl'])
def test_strides_and_channels_are_those_of_p3_to_p7(detectors, build, kind):
    detector = build(detectors[kind]()).eval()
    levels = measure(detector.extract_feat(torch.zeros(1, 3, 128, 128)), 128)
    assert levels == tuple(Level(16, stride) for stride in (8, 16, 32, 64, 128))


@pytest.mark.parametrize('output', [None, 'x', torch.zeros(2, 3), [torch.zeros(2, 3)], [[]]])
def test_what_is_no_feature_map_has_no_levels(output):
    assert measure(output, 64) == ()


def test_a_bare_tensor_is_a_pyramid_of_one_level():
    assert measure(torch.zeros(1, 7, 8, 8), 64) == (Level(7, 8),)


def test_strides_are_rounded_to_the_nearest():
    """As those of SSD's maps, whose sizes are rounded up: 300 / 38 is a stride of 8, not of 7."""
    maps = [torch.zeros(1, 3, size, size) for size in (38, 19, 10, 5, 3, 1)]
    assert [level.stride for level in measure(maps, 300)] == [8, 16, 30, 60, 100, 300]


def test_levels_are_paired_by_stride():
    student = tapped('student', 4, (8, 16, 32))
    teacher = tapped('teacher', 8, (4, 8, 16, 32, 64))
    assert pair_levels(student, teacher) == [(0, 1), (1, 2), (2, 3)]
    assert pair_levels(student, teacher, [2, 0]) == [(2, 3), (0, 1)]


@pytest.mark.parametrize(
    ('ours', 'theirs', 'pairs'),
    [
        ((1, 2, 4, 8, 8), (1, 2, 4, 8, 8), [(i, i) for i in range(5)]),
        ((4, 4, 8, 4), (4, 8, 4, 4), [(0, 0), (1, 2), (2, 1), (3, 3)]),
        ((8, 8, 8), (4, 8, 8), [(0, 1), (1, 2), (2, 2)]),  # its last, if it has fewer
        ((8,), (8, 8), [(0, 0)]),
        ((8, 8), (9, 9), [(0, 0), (1, 1)]),  # the nearest, of another resolution
    ],
)
def test_levels_of_one_stride_are_paired_in_their_order(ours, theirs, pairs):
    student, teacher = tapped('student', 4, ours), tapped('teacher', 8, theirs)
    assert pair_levels(student, teacher) == pairs
    last = len(ours) - 1
    assert pair_levels(student, teacher, [last]) == [pairs[last]]


def test_a_level_without_a_partner_is_named():
    student, teacher = tapped('student', 4, (8, 16, 128)), tapped('teacher', 8, (4, 8, 16))
    message = r"level 2 of student 'neck' \(4@8, 4@16, 4@128\) has stride 128, teacher .*\[0, 1\]"
    with pytest.raises(ValueError, match=message):
        pair_levels(student, teacher, [0, 1, 2])
    assert pair_levels(student, teacher, [0, 1]) == [(0, 1), (1, 2)]


def test_without_a_choice_the_common_levels_are_paired_and_the_others_told():
    student, teacher = tapped('student', 4, P3_TO_P7), tapped('teacher', 8, (4, 8, 16, 32, 64))
    pairs = pair_levels(student, teacher)
    assert pairs == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert left_out(student, teacher, pairs) == "the student's 4@128 and the teacher's 8@4"
    assert pair_levels(teacher, student) == [(j, i) for i, j in pairs]
    assert left_out(student, student, pair_levels(student, student)) == ''


@pytest.mark.parametrize('levels', [None, [0]])
def test_pyramids_without_a_common_stride_are_refused(levels):
    student, teacher = tapped('student', 4, (2, 4)), tapped('teacher', 4, (8, 16))
    with pytest.raises(ValueError, match=r'do not fit.*4@2, 4@4.*4@8, 4@16.*no stride in common'):
        pair_levels(student, teacher, levels)


def test_levels_of_another_resolution_are_paired_with_the_nearest():
    student = tapped('student', 4, P3_TO_P7)
    finer = tapped('teacher', 4, [stride / 1.5 for stride in P3_TO_P7])
    assert pair_levels(student, finer) == [(0, 1), (1, 2), (2, 3), (3, 4)]  # 8 with 10.7, not 5.3
    twice = tapped('teacher', 4, [stride / 2 for stride in P3_TO_P7])
    assert pair_levels(student, twice) == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_strides_are_in_pixels_of_the_student():
    maps = [torch.zeros(1, 3, size, size) for size in (16, 8)]
    assert [level.stride for level in measure(maps, 128, scale=2)] == [4, 8]
    assert [level.stride for level in measure(maps, 128)] == [8, 16]


def test_a_map_is_resized_only_where_the_sizes_differ():
    ramp = torch.arange(8.0).expand(2, 3, 8, 8)
    assert match_size(ramp, torch.empty(2, 5, 8, 8)) is ramp
    half = match_size(ramp, torch.empty(2, 5, 4, 4))
    assert torch.equal(half, torch.arange(0.5, 8, 2).expand(2, 3, 4, 4))
    vectors = torch.randn(2, 3)
    assert match_size(vectors, torch.empty(2, 5)) is vectors


@pytest.mark.parametrize('levels', [[3], [-1], [0, 5]])
def test_levels_out_of_range_are_refused(levels):
    student = tapped('student', 4, (8, 16, 32))
    with pytest.raises(ValueError, match='has the levels 0 to 2'):
        pair_levels(student, student, levels)


@pytest.mark.parametrize('levels', [[], 0, '0', [0.5], [True], {0: 1}])
def test_what_is_no_list_of_levels_is_refused(levels):
    student = tapped('student', 4, (8, 16, 32))
    with pytest.raises(ValueError, match=r'expected a list of indices, .* here \[0, 1, 2\]'):
        pair_levels(student, student, levels)


def test_levels_that_are_named_twice_are_refused():
    student = tapped('student', 4, (8, 16, 32))
    with pytest.raises(ValueError, match=r'levels=\[0, 1, 0\]: a level is named twice'):
        pair_levels(student, student, [0, 1, 0])


def test_a_tap_without_feature_maps_is_refused():
    student, head = tapped('student', 4, (8, 16)), tapped('teacher', 4, ())
    with pytest.raises(ValueError, match=r'feature maps .* expected.*no feature maps.*index='):
        pair_levels(student, head)


def test_channels_are_projected_only_where_they_differ():
    assert isinstance(projection(8, 8), nn.Identity)
    assert projection(8, 12).weight.shape == (12, 8, 1, 1)
    always = projection(8, 8, always=True)
    x = torch.randn(2, 8, 3, 3)
    assert torch.equal(always(x), x) and always.weight.requires_grad
