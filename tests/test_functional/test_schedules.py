import math

import pytest
import torch

from mmkd_fm.functional import (
    RectifiedFlow,
    Schedule,
    VESchedule,
    VPSchedule,
    get_schedule,
    register_schedule,
    transport,
)
from mmkd_fm.functional.schedules import SCHEDULES

BUILT_IN = ['rectified', 've', 'vp']


@pytest.fixture(params=BUILT_IN)
def schedule(request):
    return get_schedule(request.param)


@pytest.fixture
def ends():
    torch.manual_seed(0)
    return [torch.randn(5, 3, 4, 4, dtype=torch.float64) for _ in range(2)]


def times(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ('name', 'alpha', 'sigma'),
    [
        # at the student t = 1, half-way, and at the teacher t = 0
        ('rectified', (1, 0.5, 0), (0, 0.5, 1)),
        (
            'vp',
            (1, math.exp(-19.9 / 16 - 0.025), math.exp(-5.025)),
            (0, math.sqrt(1 - math.exp(-19.9 / 8 - 0.05)), math.sqrt(1 - math.exp(-10.05))),
        ),
        ('ve', (1, 1, 1), (0, 0.02 * math.sqrt(99), 0.02 * math.sqrt(9999))),
    ],
)
def test_the_flow_starts_at_the_student_and_ends_with_the_teacher(name, alpha, sigma):
    schedule, t = get_schedule(name), times(1, 0.5, 0)
    torch.testing.assert_close(schedule.alpha(t), times(*alpha), rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(schedule.sigma(t), times(*sigma), rtol=1e-14, atol=1e-15)


def test_vp_values_by_hand():
    schedule, t = get_schedule('vp'), times(0.875)
    values = [f(t).item() for f in (schedule.alpha, schedule.sigma)]
    slopes = [f(t).item() for f in (schedule.d_alpha, schedule.d_sigma)]
    assert values == pytest.approx([0.919, 0.393], abs=1e-3)
    assert slopes == pytest.approx([1.19, -2.78], abs=1e-2)


@pytest.mark.parametrize('name', ['alpha', 'sigma'])
def test_derivatives_equal_autograd(schedule, name):
    t = torch.linspace(0, 0.999, 40, dtype=torch.float64).requires_grad_()
    values = getattr(schedule, name)(t)
    (expected,) = torch.autograd.grad((values + 0 * t).sum(), t)
    actual = getattr(schedule, f'd_{name}')(t).detach()
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-13)


def test_vp_preserves_the_variance():
    schedule, t = get_schedule('vp'), torch.rand(50, dtype=torch.float64)
    total = schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2
    torch.testing.assert_close(total, torch.ones_like(t), rtol=0, atol=1e-15)


def test_velocity_is_the_derivative_of_the_interpolant(schedule, ends):
    t = torch.rand(5, dtype=torch.float64) * 0.99

    def interpolant(t):
        alpha, sigma = (f(t).reshape(-1, 1, 1, 1) for f in (schedule.alpha, schedule.sigma))
        return alpha * ends[0] + sigma * ends[1]

    torch.testing.assert_close(schedule.interpolate(*ends, t), interpolant(t), rtol=1e-14, atol=0)
    _, derivative = torch.autograd.functional.jvp(interpolant, t, torch.ones_like(t))
    torch.testing.assert_close(schedule.velocity(*ends, t), derivative, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_what_is_mixed_has_the_type_of_the_features(schedule, ends, dtype):
    student, teacher = (end.to(dtype) for end in ends)
    t = torch.full((5,), 0.5)  # float32
    for function in (
        schedule.interpolate, schedule.velocity,
        schedule.residual_velocity, schedule.teacher_estimate,
    ):  # fmt: skip
        assert function(student, teacher, t).dtype == dtype


def test_estimate_of_the_target_velocity_is_the_teacher(schedule, ends):
    torch.manual_seed(1)
    for t in (torch.rand(5, dtype=torch.float64) * 0.999, torch.zeros(5, dtype=torch.float64)):
        estimate = schedule.teacher_estimate(ends[0], schedule.velocity(*ends, t), t)
        torch.testing.assert_close(estimate, ends[1], rtol=0, atol=1e-11)


def test_residual_and_velocity_are_two_names_of_one_thing(schedule, ends):
    student, residual = ends
    t = torch.rand(5, dtype=torch.float64) * 0.999
    velocity = schedule.residual_velocity(student, residual, t)
    torch.testing.assert_close(velocity, schedule.velocity(student, student - residual, t))
    estimate = schedule.teacher_estimate(student, velocity, t)
    torch.testing.assert_close(estimate, student - residual, rtol=0, atol=1e-11)


def test_the_residual_of_the_rectified_flow_is_its_velocity(ends):
    assert get_schedule('rectified').residual_velocity(*ends, torch.ones(5)) is ends[1]


@pytest.mark.parametrize('num_steps', [1, 2, 3, 16])
def test_singular_schedules_start_half_a_step_later(schedule, num_steps):
    start = schedule.start(num_steps)
    assert start == (1 if isinstance(schedule, RectifiedFlow) else 1 - 1 / (2 * num_steps))
    assert math.isfinite(schedule.d_sigma(times(start)).item())
    assert schedule.singular == (not math.isfinite(schedule.d_sigma(times(1)).item()))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('solver', ['euler', 'heun'])
def test_gradients_are_finite_at_both_ends(schedule, ends, dtype, solver):
    """The first time is the one next to the singularity, the last of Heun's is t = 0."""
    student = ends[0].to(dtype).requires_grad_()
    residual = ends[1].to(dtype).requires_grad_()

    def velocity(z, t):
        return schedule.residual_velocity(student, torch.tanh(z) * residual, t)

    result = transport(student, velocity, 16, schedule, solver=solver)
    (result.endpoint.sum() + result.velocities.square().mean()).backward()
    for gradient in (student.grad, residual.grad):
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


def test_names():
    assert sorted(SCHEDULES) == BUILT_IN
    assert isinstance(get_schedule('ve'), VESchedule)
    assert get_schedule(VPSchedule(a=10.0)).a == 10
    with pytest.raises(ValueError, match="unknown schedule 'linear'; valid names: rectified, ve"):
        get_schedule('linear')


def test_a_schedule_of_the_user(ends, monkeypatch):
    monkeypatch.setattr('mmkd_fm.functional.schedules.SCHEDULES', dict(SCHEDULES))

    @register_schedule('trigonometric')
    class Trigonometric(Schedule):
        def alpha(self, t):
            return torch.sin(math.pi / 2 * t)

        def sigma(self, t):
            return torch.cos(math.pi / 2 * t)

        def d_alpha(self, t):
            return math.pi / 2 * torch.cos(math.pi / 2 * t)

        def d_sigma(self, t):
            return -math.pi / 2 * torch.sin(math.pi / 2 * t)

    schedule = get_schedule('trigonometric')
    result = transport(
        ends[0], lambda z, t: schedule.velocity(*ends, t), 4, schedule='trigonometric'
    )
    torch.testing.assert_close(result.endpoint, ends[1])
    with pytest.raises(ValueError, match="the schedule 'trigonometric' exists already"):
        register_schedule('trigonometric')(Trigonometric)


@pytest.mark.parametrize('made', [(VPSchedule, 0, 1), (VPSchedule, 1, -1), (VESchedule, 1, 1)])
def test_parameters_out_of_range_are_refused(made):
    schedule, a, b = made
    with pytest.raises(ValueError, match=f'above .*but got a={a}, b={b}'):
        schedule(a, b)
