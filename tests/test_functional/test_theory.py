"""What docs/fmkt.md says, in numbers."""

import itertools
import math

import pytest
import torch
from torch import nn

from mmkd_fm.functional import decouple_pairs, get_schedule, mse_loss, pkd_loss, transport

SCHEDULES = ['rectified', 'vp', 've']


def perceptron(inputs, outputs, width=32):
    layers = [nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def velocity(net, z, t):
    return net(torch.cat([z, t[:, None]], dim=1))


def carry(net, x, count):
    return transport(x, lambda z, t: velocity(net, z, t), count)


def fit(parameters, loss, steps, rate=5e-3):
    optimizer = torch.optim.Adam([p for p in parameters if p.requires_grad], rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        decay.step()
    return value.item()


def random_transport(schedule, num_steps):
    """A flow with a random network that predicts residuals, and a random teacher."""
    x, teacher = torch.randn(2, 16, 5, dtype=torch.float64)
    net, flow = perceptron(6, 5).double(), get_schedule(schedule)

    def follow(z, t):
        return flow.residual_velocity(x, velocity(net, z, t), t)

    with torch.no_grad():
        return x, teacher, transport(x, follow, num_steps, schedule)


# The bound


@pytest.mark.parametrize('schedule', SCHEDULES)
@pytest.mark.parametrize('num_steps', [1, 2, 3, 8])
@pytest.mark.parametrize('scale', [0.3, 2.0])
def test_the_loss_bounds_the_likelihood_and_the_gap_is_the_spread(schedule, num_steps, scale):
    torch.manual_seed(num_steps)
    _, teacher, flow = random_transport(schedule, num_steps)
    gaussian = torch.distributions.Normal(flow.endpoint, scale)
    negative_log_likelihood = -gaussian.log_prob(teacher).sum(dim=1)
    squared = (flow.estimates - teacher).square().sum(dim=2)
    constant = 5 / 2 * math.log(2 * math.pi * scale**2)
    bound = squared.mean(dim=0) / (2 * scale**2) + constant
    spread = flow.estimates.var(dim=0, unbiased=False).sum(dim=1)
    gap = bound - negative_log_likelihood
    torch.testing.assert_close(gap, spread / (2 * scale**2), rtol=1e-12, atol=1e-12)
    # with one step the bound is tight but for rounding, with more it is not
    assert (gap.abs() < 1e-12).all() if num_steps == 1 else (gap > 1e-6).all()


@pytest.mark.parametrize('schedule', SCHEDULES)
def test_velocity_matching_weights_the_squared_errors_by_the_slope_of_sigma(schedule):
    torch.manual_seed(0)
    x, teacher, flow = random_transport(schedule, 4)
    d_sigma = get_schedule(schedule).d_sigma(flow.times)
    targets = [get_schedule(schedule).velocity(x, teacher, t.expand(16)) for t in flow.times]
    matching = (flow.velocities - torch.stack(targets)).square().mean(dim=(1, 2))
    weighted = d_sigma**2 * (flow.estimates - teacher).square().mean(dim=(1, 2))
    torch.testing.assert_close(matching, weighted, rtol=1e-10, atol=0)


def test_solving_a_velocity_for_the_teacher_amplifies_errors_near_the_teacher_of_vp():
    flow = get_schedule('vp')
    x, error = torch.randn(1, 5, dtype=torch.float64), 1e-3

    def amplification(time):
        t = torch.tensor([time], dtype=torch.float64)
        exact = flow.velocity(x, x, t)
        estimate = flow.teacher_estimate(x, exact + error, t)
        return ((estimate - x).abs() / error).mean().item()

    assert amplification(0) == pytest.approx(2315.5, abs=0.1)
    assert amplification(flow.start(8) / 8) == pytest.approx(288, abs=0.5)


# Two modes


def draw_modes(count):
    mode = torch.randint(0, 2, (count, 1)).float() * 2 - 1
    return 0.5 * mode + torch.randn(count, 1), mode + 0.1 * torch.randn(count, 1)


def fit_serially(ratio, steps=600):
    """A flow trained serially with the share `ratio` of the teachers left in place."""
    torch.manual_seed(0)
    net, iterations = perceptron(2, 1), itertools.count()

    def loss():
        x, teacher = draw_modes(1024)
        target = teacher[decouple_pairs(1024, ratio, 0, next(iterations))]
        return (carry(net, x, 2).estimates - target).square().mean()

    fit(net.parameters(), loss, steps)
    return net


@pytest.mark.parametrize('ratio', [1, 0.5, 0])
def test_serial_training_is_regression_and_decoupled_pairs_shrink_it_to_the_mean(ratio):
    net = fit_serially(ratio)
    with torch.no_grad():
        x, _ = draw_modes(8192)
        flow = carry(net, x, 2)
    # E[X^T | X^S] = tanh(X^S / 2) for equally likely modes and noise of variance 1
    error = flow.endpoint - ratio * torch.tanh(x / 2)
    assert error.square().mean().sqrt() < 0.05
    assert flow.estimates.std(dim=0, unbiased=False).mean() < 0.05  # the steps agree
    assert (flow.endpoint.abs() > 0.7).float().mean() < 0.25  # few outputs reach a mode


@pytest.mark.parametrize('paired', [True, False])
def test_ordinary_flow_matching_keeps_both_modes(paired):
    torch.manual_seed(0)
    net = perceptron(2, 1, width=64)

    def loss():
        x, teacher = draw_modes(1024)
        teacher = teacher if paired else teacher[torch.randperm(1024)]
        t = torch.rand(1024)
        z = t[:, None] * x + (1 - t[:, None]) * teacher
        return (velocity(net, z, t) - (x - teacher)).square().mean()

    fit(net.parameters(), loss, 1200)
    with torch.no_grad():
        x, _ = draw_modes(8192)
        output = carry(net, x, 32).endpoint
    near = (output.abs() - 1).abs() < 0.4
    assert near.float().mean() > 0.9
    assert (output > 0).float().mean() == pytest.approx(0.5, abs=0.05)
    # a flow on the line keeps the order: the mode is the sign of X^S, however pairs were made
    assert (output.sign() == x.sign()).float().mean() > 0.95


# Several steps


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(32, 2, dtype=torch.float64)


def swirl(z, t):
    return torch.stack([z[:, 1] + torch.sin(2 * z[:, 0]), torch.cos(z[:, 1]) - t * z[:, 0]], dim=1)


@pytest.mark.parametrize('solver, order', [('euler', 1), ('midpoint', 2), ('heun', 2)])
def test_truncation_error_falls_with_the_order_of_the_solver(x, solver, order):
    limit = transport(x, swirl, 1024, solver='heun').endpoint
    counts = [16, 32, 64]
    errors = [
        (transport(x, swirl, n, solver=solver).endpoint - limit).norm(dim=1).mean().item()
        for n in counts
    ]
    slopes = [math.log2(a / b) for a, b in zip(errors, errors[1:])]
    assert slopes == pytest.approx([order] * 2, abs=0.1)


@pytest.mark.parametrize('solver', ['euler', 'midpoint', 'heun'])
def test_mean_of_the_estimates_is_the_state_that_the_rectified_flow_ends_in(x, solver):
    flow = transport(x, swirl, 5, solver=solver)
    state = x
    for v in flow.velocities:
        state = state - v / 5
    torch.testing.assert_close(flow.endpoint, state, rtol=0, atol=1e-14)


@pytest.mark.parametrize('num_steps', [1, 4, 16])
def test_one_number_limits_truncation_error_and_spread(x, num_steps):
    matrix = torch.tensor([[0.6, -1.1], [0.9, 0.2]], dtype=torch.float64)
    flow = transport(x, lambda z, t: z @ matrix.T, num_steps)
    exact = x @ torch.linalg.matrix_exp(-matrix).T
    s = torch.linspace(0, 1, 101, dtype=torch.float64)[:, None, None]
    # |dv/dt| along the exact paths x exp(-A s)
    change = (x @ (torch.linalg.matrix_exp(-matrix * s) @ matrix @ matrix).mT).norm(dim=2)
    most, lipschitz = change.amax(dim=0), torch.linalg.matrix_norm(matrix, ord=2)
    limit = most * torch.expm1(lipschitz) / (2 * lipschitz * num_steps)
    assert ((flow.endpoint - exact).norm(dim=1) <= limit).all()
    fine = transport(x, lambda z, t: z @ matrix.T, 1000)
    spread = fine.estimates.var(dim=0, unbiased=False).sum(dim=1).sqrt()
    assert (spread <= 1.01 * most / math.sqrt(12)).all()


@pytest.mark.parametrize('num_steps', [1, 2, 7])
def test_straight_paths_have_neither_truncation_error_nor_spread(x, num_steps):
    eye = torch.eye(2, dtype=torch.float64)
    matrix = torch.tensor([[0.8, -0.3], [0.4, 1.2]], dtype=torch.float64)

    def straight(z, t):
        """The velocity x - A x of the path that is at z = t x + (1 - t) A x."""
        start = torch.linalg.solve(t[0] * eye + (1 - t[0]) * matrix, z.T).T
        return start - start @ matrix.T

    flow = transport(x, straight, num_steps)
    torch.testing.assert_close(flow.endpoint, x @ matrix.T, rtol=0, atol=1e-13)
    assert flow.estimates.std(dim=0, unbiased=False).max() < 1e-13


# The trap


def test_nothing_to_transport_costs_nothing_with_either_metric():
    """T = 0 and v = X^S: the loss is 0 whatever the teacher."""
    torch.manual_seed(0)
    x, mapped = torch.randn(64, 4), torch.zeros(64, 4)
    flow = transport(x, lambda z, t: x, 4)
    for metric in (mse_loss, pkd_loss):
        assert metric(flow.velocities[0], x - mapped).item() == 0
    assert flow.endpoint.abs().max() == 0


def test_pkd_leaves_the_size_of_the_velocity_undetermined():
    torch.manual_seed(0)
    v, target = torch.randn(2, 64, 4, dtype=torch.float64)
    v.requires_grad_()
    pkd_loss(v, target, eps=0).backward()
    assert v.grad.abs().max() > 1e-4
    # per channel, the gradient neither scales nor shifts
    torch.testing.assert_close((v * v.grad).sum(dim=0), torch.zeros(4).double(), rtol=0, atol=1e-15)
    torch.testing.assert_close(v.grad.sum(dim=0), torch.zeros(4).double(), rtol=0, atol=1e-15)


def fit_to_noise(metric, trained, steps=400):
    """Velocity matching to T(X^T), X^T noise; the last loss and the deviation of T(X^T)."""
    torch.manual_seed(0)
    net, teacher_map = perceptron(5, 4), nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 4, False))
    nn.init.orthogonal_(teacher_map[1].weight)
    teacher_map.requires_grad_(trained)

    def loss():
        x = torch.randn(256, 4)
        target = x - teacher_map(torch.randn(256, 6))
        return metric(carry(net, x, 1).velocities[0], target)

    last = fit([*net.parameters(), *teacher_map.parameters()], loss, steps, rate=1e-2)
    return last, teacher_map(torch.randn(256, 6)).std(dim=0).mean().item()


@pytest.mark.parametrize(
    'metric, floor',
    # what is left of X^S - noise when X^S is known: the noise, and 1 - the correlation
    [(mse_loss, 1), (pkd_loss, 1 - math.sqrt(0.5))],
)
def test_a_trained_teacher_map_makes_noise_predictable_and_a_frozen_one_does_not(metric, floor):
    loss, deviation = fit_to_noise(metric, trained=True)
    assert loss < 0.02
    assert deviation < 0.1
    loss, deviation = fit_to_noise(metric, trained=False)
    assert loss == pytest.approx(floor, rel=0.15)
    assert deviation == pytest.approx(1, abs=0.1)
