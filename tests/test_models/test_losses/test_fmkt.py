from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmkd_fm.functional import decouple_pairs, draw_num_steps, get_schedule, pkd_loss
from mmkd_fm.models import Flow, FMKTLoss, MSELoss, PKDLoss, VelocityMatching
from mmkd_fm.models.alignment import Level, Tapped
from mmkd_fm.models.losses.fmkt import compare_steps
from mmkd_fm.models.taps import Tap

SIZES = (8, 4)


def tapped(owner, channels):
    levels = tuple(Level(channels, 64 // size) for size in SIZES)
    return Tapped(owner, Tap('neck'), nn.Identity(), levels)


def pyramid(channels):
    return [torch.randn(3, channels, size, size, requires_grad=True) for size in SIZES]


@pytest.fixture
def fmkt(iteration):
    """Build a connected FMKTLoss of 4 channels: `fmkt(teacher_channels=4, moved=True, ...)`."""

    def make(teacher_channels=4, moved=False, **kwargs):
        torch.manual_seed(0)
        loss = FMKTLoss(**kwargs)
        loss.connect(tapped('student', 4), tapped('teacher', teacher_channels))
        if moved:  # away from the zero velocity of the beginning
            for flow in loss.flows.values():
                nn.init.normal_(flow.meta_encoder.conv2.weight)
        return loss

    return make


def teacher_of(channels):
    return [level.detach() for level in pyramid(channels)]


@pytest.mark.parametrize('num_steps', [1, 2, 4, 8])
def test_training_starts_from_the_metric_of_the_students_own_features(fmkt, num_steps):
    loss, student, teacher = fmkt(flow=dict(num_steps=num_steps)), pyramid(4), teacher_of(4)
    result = loss(student, teacher)
    expected = sum(pkd_loss(s, t) for s, t in zip(student, teacher))
    # exact but for the rounding of means over more than two steps
    torch.testing.assert_close(result['loss'], expected, rtol=0 if num_steps < 3 else 1e-6, atol=0)
    assert result['loss_theta'].item() == pytest.approx(0, abs=0 if num_steps < 3 else 1e-12)
    assert result['steps'] == num_steps


def test_one_step_of_serial_training_equals_the_reference():
    """Loss, endpoint, velocities and all gradients to 1e-9 relative in float64."""
    reference = np.load(Path(__file__).parents[2] / 'data' / 'reference.npz')

    def value(name):
        return torch.from_numpy(reference[f'fmkt/{name}'])

    flow = Flow(8, meta_encoder=dict(type='ConvMetaEncoder'), num_steps=4).double()
    objective = VelocityMatching(8, 12, 'rectified', train_teacher_map=True).double()
    parameters = {
        'encoder.conv1.weight': flow.meta_encoder.conv1.weight,
        'encoder.norm.weight': flow.meta_encoder.norm.weight,
        'encoder.norm.bias': flow.meta_encoder.norm.bias,
        'encoder.conv2.weight': flow.meta_encoder.conv2.weight,
        'time.weight': flow.time_embedding.linear.weight,
        'time.bias': flow.time_embedding.linear.bias,
        'teacher.bn.weight': objective.teacher_map.bn.weight,
        'teacher.bn.bias': objective.teacher_map.bn.bias,
        'teacher.conv.weight': objective.teacher_map.conv.weight,
    }
    assert len(parameters) == len([*flow.parameters(), *objective.parameters()])
    for name, parameter in parameters.items():
        parameter.data = value(f'param.{name}')
    student = value('student').requires_grad_()
    target = objective.target(value('teacher'))
    compare = partial(objective, x=student, target=target, metric=PKDLoss())
    transported = flow(student, step_loss=compare, keep_steps=True)
    loss = transported.loss
    loss.backward()

    def assert_equal(actual, name):
        expected = value(name)
        # the shift before a Pearson metric has no gradient, only rounding errors
        scale = 1 if name == 'grad.teacher.bn.bias' else expected.abs().max().item()
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9 * scale)

    assert_equal(loss.detach(), 'loss')
    assert_equal(transported.endpoint.detach(), 'endpoint')
    assert_equal(transported.velocities.detach(), 'velocities')
    assert_equal(student.grad, 'grad.student')
    for name, parameter in parameters.items():
        assert_equal(parameter.grad, f'grad.{name}')


@pytest.mark.parametrize('size', [1, 2])
def test_a_single_location_of_one_image_has_a_target(size):
    """It has no deviation of its own: that of the images before stands for it."""
    objective = VelocityMatching(6, 4, 'rectified')
    before = 3 + 2 * torch.randn(64, 4, 8, 8)
    for _ in range(100):
        objective.target(before)
    one = before[:1, :, :size, :1]
    expected = objective.teacher_map.conv((one - 3) / 2)
    got = objective.target(one)
    assert got.shape == expected.shape == (1, 6, size, 1)
    assert torch.allclose(got, expected, atol=0.2) == (size == 1)


def test_theta_draws_the_students_features_only(fmkt):
    loss, student = fmkt(moved=True), pyramid(4)
    result = loss(student, teacher_of(4))
    assert result['loss_theta'] > 0
    result['loss_theta'].backward()
    assert all(level.grad.abs().max() > 0 for level in student)
    assert all(p.grad is None for p in loss.parameters())


def test_theta_compares_with_the_mean_of_the_estimates(fmkt):
    loss, student = fmkt(moved=True, flow=dict(num_steps=4), theta_weight=3), pyramid(4)
    expected = 3 * sum(
        pkd_loss(x, flow(x, keep_steps=True).estimates.mean(dim=0))
        for x, flow in zip(student, loss.flows.values())
    )
    torch.testing.assert_close(loss(student, teacher_of(4))['loss_theta'], expected)


def test_theta_without_weight_is_left_out(fmkt):
    assert set(fmkt(theta_weight=0)(pyramid(4), teacher_of(4))) == {'loss', 'steps'}


def test_the_source_term_is_the_metric_of_the_decoded_features(fmkt):
    loss = fmkt(teacher_channels=6, moved=True, flow=dict(num_steps=2), source_weight=3)
    student, teacher = pyramid(4), teacher_of(6)
    source = loss(student, teacher)['loss_source']
    decoded = [o.decode(x) for o, x in zip(loss.objectives, student)]
    expected = 3 * sum(pkd_loss(s, t) for s, t in zip(decoded, teacher))
    torch.testing.assert_close(source, expected, rtol=1e-6, atol=0)
    source.backward()
    assert all(x.grad.abs().sum() > 0 for x in student)
    assert all(o.decode.weight.grad.abs().sum() > 0 for o in loss.objectives)
    assert all(parameter.grad is None for parameter in loss.flows.parameters())


def test_before_the_flow_moves_source_term_and_flow_loss_are_equal(fmkt):
    loss = fmkt(teacher_channels=6, flow=dict(num_steps=1), source_weight=1.0)
    result = loss(pyramid(4), teacher_of(6))
    assert torch.equal(result['loss_source'], result['loss'])


def test_the_source_term_has_the_targets_of_the_flow_loss_with_decoupled_pairs(fmkt, iteration):
    iteration(3)
    loss = fmkt(teacher_channels=6, flow=dict(num_steps=1), source_weight=1.0, pair_ratio=0.34)
    student, teacher = pyramid(4), teacher_of(6)
    result = loss(student, teacher)
    assert torch.equal(result['loss_source'], result['loss'])
    assert not torch.equal(
        result['loss'], fmkt(6, flow=dict(num_steps=1))(student, teacher)['loss']
    )


def test_each_weight_is_that_of_its_own_term(fmkt):
    student, teacher = pyramid(4), teacher_of(6)
    one, other = (
        fmkt(6, True, flow=dict(num_steps=2), **weights)(student, teacher)
        for weights in (
            dict(source_weight=1.0),
            dict(loss_weight=2.0, theta_weight=3.0, source_weight=5.0),
        )
    )
    for name, factor in dict(loss=2, loss_theta=3, loss_source=5, steps=1).items():
        torch.testing.assert_close(other[name], factor * one[name])


def forced(fmkt, num_steps, **kwargs):
    return fmkt(
        teacher_channels=6,
        moved=True,
        flow=dict(num_steps=num_steps),
        objective=dict(type='mmkd_fm.VelocityMatching'),
        metric=dict(type='mmkd_fm.MSELoss'),
        **kwargs,
    )


def test_a_single_step_starts_at_the_student_with_and_without_teacher_forcing(fmkt):
    student, teacher = pyramid(4), teacher_of(6)
    losses = [forced(fmkt, 1, teacher_forcing=on)(student, teacher) for on in (True, False)]
    assert torch.equal(losses[0]['loss'], losses[1]['loss'])


def test_teacher_forcing_compares_the_velocities_at_the_interpolants(fmkt):
    loss, student, teacher = forced(fmkt, 4, teacher_forcing=True), pyramid(4), teacher_of(6)
    expected = 0
    for x, x_teacher, flow, objective in zip(
        student, teacher, loss.flows.values(), loss.objectives
    ):
        target = objective.target(x_teacher)
        for share in (1, 0.75, 0.5, 0.25):
            t, z = torch.full((3,), share), share * x + (1 - share) * target
            residual = flow.meta_encoder(z, flow.time_embedding(t, z))
            expected += F.mse_loss(x - target, residual) / 4
    result = loss(student, teacher)
    torch.testing.assert_close(result['loss'], expected)
    assert not torch.allclose(result['loss'], forced(fmkt, 4)(student, teacher)['loss'])


def test_teacher_forcing_is_the_same_recomputed(fmkt):
    student, teacher = pyramid(4), teacher_of(6)
    results = []
    for checkpoint in (False, True):
        loss = forced(fmkt, 4, teacher_forcing=True)
        for flow in loss.flows.values():
            flow.checkpoint = checkpoint
        value = loss(student, teacher)['loss']
        gradients = torch.autograd.grad(value, [*student, *loss.flows.parameters()])
        results.append([value, *gradients])
    torch.testing.assert_close(*results)


def test_interpolants_have_the_size_of_the_students_maps(fmkt):
    """A teacher of half the size that is constant is as one of the full size."""
    student = pyramid(4)
    constant = torch.randn(3, 6, 1, 1)
    full, half = ([constant.expand(3, 6, s // k, s // k) for s in SIZES] for k in (1, 2))
    seen = []
    for teacher in (full, half):
        loss = forced(fmkt, 4, teacher_forcing=True).eval()  # the map's statistics stay
        states = []
        for flow in loss.flows.values():
            flow.meta_encoder.register_forward_pre_hook(lambda m, args, s=states: s.append(args[0]))
        loss(student, teacher)
        seen.append(states)
    torch.testing.assert_close(*seen)


def test_teacher_forcing_is_refused_where_there_is_no_mapped_teacher(fmkt):
    with pytest.raises(ValueError, match="EndpointMatching does not; take .*VelocityMatching'"):
        fmkt(teacher_forcing=True)
    with pytest.raises(ValueError, match="with flow='neck' the head reads"):
        FMKTLoss(flow='neck', teacher_forcing=True)


def test_source_term_without_weight_is_left_out_and_without_a_decoder_refused(fmkt):
    assert 'loss_source' not in fmkt()(pyramid(4), teacher_of(4))
    with pytest.raises(ValueError, match='source_weight=1.*VelocityMatching decodes nothing'):
        fmkt(source_weight=1.0, objective=dict(type='mmkd_fm.VelocityMatching'))


@pytest.mark.parametrize(
    ('objective', 'metric'),
    [
        *[('EndpointMatching', name) for name in ('PKDLoss', 'CWDLoss', 'MSELoss', 'CosineLoss')],
        *[('VelocityMatching', name) for name in ('CWDLoss', 'MSELoss')],
    ],
)
@pytest.mark.parametrize('larger', ['student', 'teacher'])
def test_maps_of_other_sizes_are_compared_at_the_teachers(fmkt, objective, metric, larger):
    loss = fmkt(6, True, flow=dict(num_steps=2), objective=dict(type=objective),
                metric=dict(type=metric))  # fmt: skip
    student, teacher = pyramid(4), teacher_of(6)
    cut = slice(None, None, 2)
    if larger == 'student':
        teacher = [x[..., cut, cut] for x in teacher]
    else:
        student = [x[..., cut, cut].detach().requires_grad_() for x in student]

    def resized(x, target):
        return F.interpolate(x, target.shape[2:], mode='bilinear', align_corners=False)

    expected, theta = 0, 0
    for x, t, flow, matching in zip(student, teacher, loss.flows.values(), loss.objectives):
        steps = flow(x, keep_steps=True)
        target = matching.target(t)
        for estimate, velocity in zip(steps.estimates, steps.velocities):
            if objective == 'EndpointMatching':
                pair = resized(matching.decode(estimate), t), t
            else:  # rectified: X^S - T(X^T)
                pair = resized(x, t) - target, resized(velocity, t)
            expected += loss.metric(*pair) / 2
        theta += loss.metric(x, steps.endpoint.detach())
    result = loss(student, teacher)
    torch.testing.assert_close(result['loss'], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(result['loss_theta'], theta, rtol=1e-4, atol=1e-6)
    result['loss'].backward()
    assert all(x.grad.abs().sum() > 0 for x in student)


@pytest.mark.parametrize('num_steps', [1, 4])
def test_endpoint_matching_decodes_each_estimate(fmkt, num_steps):
    loss = fmkt(6, moved=True, flow=dict(num_steps=num_steps), loss_weight=2)
    student, teacher = pyramid(4), teacher_of(6)
    expected = 0
    for x, t, flow, objective in zip(student, teacher, loss.flows.values(), loss.objectives):
        estimates = flow(x, keep_steps=True).estimates
        expected += 2 * sum(pkd_loss(objective.decode(e), t) for e in estimates) / num_steps
    torch.testing.assert_close(loss(student, teacher)['loss'], expected)


def test_estimates_of_equal_channels_are_decoded_on_request(fmkt):
    objective = dict(type='mmkd_fm.EndpointMatching', project=True)
    plain, projected = fmkt(), fmkt(objective=objective)
    student, teacher = pyramid(4), teacher_of(4)
    value = projected(student, teacher)['loss']
    assert torch.equal(value, plain(student, teacher)['loss'])  # it begins as the identity
    value.backward()
    for level in projected.objectives:
        assert level.decode.weight.grad.abs().sum() > 0
        nn.init.normal_(level.decode.weight)
    decoded = [o.decode(x) for o, x in zip(projected.objectives, student)]
    expected = sum(map(pkd_loss, decoded, teacher))
    torch.testing.assert_close(projected(student, teacher)['loss'], expected)


@pytest.mark.parametrize('schedule', ['rectified', 'vp', 've'])
def test_velocity_matching_has_the_velocities_of_the_schedule(fmkt, schedule):
    """Their difference is sigma' times the error of the estimate."""
    loss = fmkt(
        6,
        moved=True,
        flow=dict(num_steps=3, schedule=schedule),
        objective=dict(type='mmkd_fm.VelocityMatching'),
        metric=dict(type='mmkd_fm.MSELoss'),
    )
    student, teacher = pyramid(4), teacher_of(6)
    expected = 0
    for x, t, flow, objective in zip(student, teacher, loss.flows.values(), loss.objectives):
        steps, target = flow(x, keep_steps=True), objective.target(t)
        slopes = get_schedule(schedule).d_sigma(steps.times).square()
        expected += sum(a * F.mse_loss(e, target) for a, e in zip(slopes, steps.estimates)) / 3
    torch.testing.assert_close(loss(student, teacher)['loss'], expected, rtol=1e-4, atol=0)


def test_all_levels_take_the_same_number_of_steps(fmkt, iteration):
    iteration(3)
    loss = fmkt(flow=dict(num_steps=[1, 2, 4], seed=7))
    steps = loss(pyramid(4), teacher_of(4))['steps']
    assert steps == draw_num_steps([1, 2, 4], 7, 3)
    assert [len(flow(x).times) for flow, x in zip(loss.flows.values(), pyramid(4))] == [steps] * 2


@pytest.mark.parametrize('ratio', [0.0, 0.34, 1.0])
def test_decoupled_pairs_are_compared_with_other_teachers(fmkt, iteration, ratio):
    iteration(3)
    loss = fmkt(6, moved=True, flow=dict(num_steps=2, seed=3), pair_ratio=ratio)
    student, teacher = pyramid(4), teacher_of(6)
    before = [level.clone() for level in teacher]
    result = loss(student, teacher)
    assert all(map(torch.equal, teacher, before))  # never in place
    order = decouple_pairs(3, ratio, seed=3, iteration=3)
    assert (order.tolist() == [0, 1, 2]) == (ratio == 1)
    paired = fmkt(6, moved=True, flow=dict(num_steps=2, seed=3))
    paired.load_state_dict(loss.state_dict())
    expected = paired(student, [level[order] for level in teacher])
    torch.testing.assert_close(result['loss'], expected['loss'])
    # the students, and so the Theta term, are not permuted
    assert torch.equal(result['loss_theta'], expected['loss_theta'])


@pytest.mark.parametrize('schedule', ['rectified', 'vp', 've'])
def test_recomputation_changes_no_gradient(fmkt, schedule):
    gradients = []
    for checkpoint in (False, True):
        flow = dict(schedule=schedule, num_steps=3, checkpoint=checkpoint)
        loss, student = fmkt(6, moved=True, flow=flow), pyramid(4)
        sum(loss(student, teacher_of(6)).values()).backward()
        gradients.append([p.grad for p in (*student, *loss.parameters())])
    assert all(g.isfinite().all() for g in gradients[0])
    for first, second in zip(*gradients):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize('checkpoint', [False, True])
def test_comparisons_of_a_transport_made_before_are_recomputed_on_request(checkpoint):
    """In the backward pass, so that nothing of theirs is kept until then."""
    x, calls = torch.randn(2, 4, 3, 3, requires_grad=True), []
    transported = Flow(4, num_steps=3)(x, 3, keep_steps=True)

    def compare(estimate, velocity, t):
        calls.append(t.tolist())
        return estimate.square().sum()

    loss = compare_steps(transported, compare, checkpoint)
    assert calls == [[t] * 2 for t in transported.times.tolist()]
    (grad,) = torch.autograd.grad(loss, x)
    assert len(calls) == (6 if checkpoint else 3)
    torch.testing.assert_close(grad, 2 * x.detach())


@pytest.mark.parametrize(
    ('objective', 'metric', 'refused'),
    [
        ('VelocityMatching', 'PKDLoss', True),
        ('VelocityMatching', 'CosineLoss', True),
        ('VelocityMatching', 'MSELoss', False),
        ('EndpointMatching', 'PKDLoss', False),
    ],
)
def test_a_velocity_whose_size_nothing_learns_is_refused(fmkt, objective, metric, refused):
    """One that starts at 0 would have no gradient either."""
    message = f"{objective} with {metric}: the metric ignores scale.*type='mmkd_fm.MSELoss'"
    with pytest.raises(ValueError, match=message) if refused else nullcontext():
        fmkt(objective=dict(type=objective), metric=dict(type=metric))


@pytest.mark.parametrize('objective', ['EndpointMatching', 'VelocityMatching'])
def test_gradients_reach_student_and_flow(fmkt, objective):
    metric = dict(type='MSELoss')
    loss = fmkt(6, moved=True, objective=dict(type=f'mmkd_fm.{objective}'), metric=metric)
    student = pyramid(4)
    loss(student, teacher_of(6))['loss'].backward()
    assert all(level.grad.abs().max() > 0 for level in student)
    for name, parameter in loss.named_parameters():
        assert parameter.requires_grad != ('teacher_map' in name), name
        assert (parameter.grad is not None) == parameter.requires_grad, name


@pytest.mark.parametrize('objective', ['EndpointMatching', 'VelocityMatching'])
def test_half_precision_features_are_compared_in_float32(fmkt, objective):
    """Under autocast, where the mapped teacher is half precision too."""
    loss = fmkt(6, moved=True, flow=dict(num_steps=2), objective=dict(type=objective),
                metric=dict(type='MSELoss'))  # fmt: skip
    student, teacher = [x.detach().bfloat16() for x in pyramid(4)], teacher_of(6)
    with torch.autocast('cpu', torch.bfloat16):
        values, expected = (loss(x, teacher) for x in (student, [x.float() for x in student]))
    for name, value in values.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name])


def test_metric_and_flow_are_configurable(fmkt):
    loss, student, teacher = fmkt(metric=dict(type='MSELoss')), pyramid(4), teacher_of(4)
    expected = sum(MSELoss()(s, t) for s, t in zip(student, teacher))
    torch.testing.assert_close(loss(student, teacher)['loss'], expected)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(objective=dict(type='mmkd_fm.Matching')), 'EndpointMatching, mmkd_fm.Velocity'),
        (dict(flow=dict(meta_encoder=dict(type='No'))), 'valid names: mmkd_fm.ConvMetaEncoder'),
        (dict(flow=dict(schedule='linear')), 'valid names: .*rectified'),
        (dict(metric=dict(type='No')), 'valid names: .*mmkd_fm.PKDLoss'),
    ],
)
def test_unknown_names_list_the_valid_ones(fmkt, options, message):
    with pytest.raises(ValueError, match=f'unknown .*{message}'):
        fmkt(**options)


def _train_on_noise(train_teacher_map, steps=200):
    """Fit a flow to a teacher that is noise: there is nothing to learn about it."""
    torch.manual_seed(0)
    encoder = dict(type='ConvMetaEncoder')
    flow = Flow(4, encoder, num_steps=1)
    objective = VelocityMatching(4, 6, 'rectified', train_teacher_map)
    parameters = [*flow.parameters(), *objective.parameters()]
    optimizer = torch.optim.Adam([p for p in parameters if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(steps):
        student, teacher = torch.randn(8, 4, 6, 6), torch.randn(8, 6, 6, 6)
        compare = partial(objective, x=student, target=objective.target(teacher), metric=MSELoss())
        loss = flow(student, step_loss=compare).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, objective.teacher_map(torch.randn(8, 6, 6, 6)).std().item()


def test_a_trained_teacher_map_collapses_and_a_frozen_one_does_not():
    losses, spread = _train_on_noise(train_teacher_map=True)
    assert losses[-1] < 0.2 * losses[0]  # as if the flow had learnt to predict noise
    assert spread < 0.1
    losses, spread = _train_on_noise(train_teacher_map=False)
    assert spread == pytest.approx(1, abs=0.1)
    assert losses[-1] > 0.9  # the variance of the mapped noise is 1


@pytest.mark.parametrize('option', [dict(project=True), dict(levels=[0])])
def test_options_that_a_metric_would_ignore_are_refused(option):
    with pytest.raises(ValueError, match=f'metric: {next(iter(option))} of PKDLoss would be ign'):
        FMKTLoss(metric=dict(type='mmkd_fm.PKDLoss', **option))
