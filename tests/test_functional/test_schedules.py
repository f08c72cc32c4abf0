import pytest
import torch

from mmkd_fm.functional import RectifiedFlow, get_schedule


@pytest.fixture
def schedule():
    return get_schedule('rectified')


@pytest.fixture
def ends():
    torch.manual_seed(0)
    return [torch.randn(2, 3, 4, 4, dtype=torch.float64) for _ in range(2)]


def test_time_runs_from_the_student_at_one_to_the_teacher_at_zero(schedule):
    t = torch.tensor([0.0, 0.25, 1.0])
    assert torch.equal(schedule.alpha(t), torch.tensor([0.0, 0.25, 1.0]))
    assert torch.equal(schedule.sigma(t), torch.tensor([1.0, 0.75, 0.0]))


@pytest.mark.parametrize('time', [0.125, 0.5, 1.0])
def test_velocity_is_the_derivative_of_the_interpolant(schedule, ends, time):
    def interpolant(t):
        return schedule.alpha(t) * ends[0] + schedule.sigma(t) * ends[1]

    t = torch.tensor(time, dtype=torch.float64)
    _, derivative = torch.autograd.functional.jvp(interpolant, t, torch.ones_like(t))
    torch.testing.assert_close(schedule.velocity(*ends, t.expand(2)), derivative, rtol=0, atol=0)


@pytest.mark.parametrize('time', [0.125, 0.5, 1.0])
def test_estimate_of_the_exact_velocity_is_the_teacher(schedule, ends, time):
    t = torch.full((2,), time, dtype=torch.float64)
    velocity = schedule.velocity(*ends, t)
    torch.testing.assert_close(
        schedule.teacher_estimate(ends[0], velocity, t), ends[1], rtol=0, atol=1e-14
    )


def test_names(schedule):
    assert isinstance(schedule, RectifiedFlow)
    with pytest.raises(ValueError, match=r"unknown schedule 'linear'; valid names: .*rectified"):
        get_schedule('linear')
