import math

import pytest
import torch

from mmkd_fm.functional import transport


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(3, 4, 5, 5, dtype=torch.float64)


def linear(z, t):
    return z


def uneven(z, t):
    """A velocity that depends on state, time and position in the batch."""
    return torch.sin(z) * t[:, None, None, None] + z.roll(1, dims=-1)


@pytest.mark.parametrize('num_steps', [1, 2, 3, 8])
def test_constant_velocity_is_subtracted_once(x, num_steps):
    c = torch.randint(-8, 8, x.shape).double() / 8
    result = transport(x, lambda z, t: c, num_steps)
    torch.testing.assert_close(result.endpoint, x - c, rtol=0, atol=1e-15)


def test_linear_field_converges_with_order_one(x):
    counts = [16, 32, 64, 128, 256]
    exact = x * math.exp(-1)
    errors = [(transport(x, linear, n).endpoint - exact).abs().max().item() for n in counts]
    slopes = [math.log(a / b) / math.log(2) for a, b in zip(errors, errors[1:])]
    assert slopes == pytest.approx([1] * 4, abs=0.05)


def test_no_steps_pass_on_the_input_itself(x):
    result = transport(x, linear, 0)
    assert result.endpoint is x
    assert result.estimates.shape == result.velocities.shape == (0, *x.shape)
    assert len(result.times) == 0


def test_one_step_is_one_evaluation(x):
    result = transport(x, uneven, 1)
    assert torch.equal(result.endpoint, x - uneven(x, torch.ones(3, dtype=torch.float64)))
    assert torch.equal(result.estimates[0], result.endpoint)


@pytest.mark.parametrize('num_steps', [1, 2, 4, 8])
def test_endpoint_is_the_mean_of_the_estimates_and_the_euler_endpoint(x, num_steps):
    result = transport(x, uneven, num_steps)
    assert torch.equal(result.endpoint, result.estimates.mean(dim=0))
    z = x
    for i in range(num_steps, 0, -1):
        z = z - uneven(z, torch.full((3,), i / num_steps, dtype=torch.float64)) / num_steps
    torch.testing.assert_close(result.endpoint, z, rtol=0, atol=1e-14)


@pytest.mark.parametrize('num_steps', [1, 2, 4])
def test_time_falls_from_one_to_one_step(x, num_steps):
    seen = []

    def velocity(z, t):
        seen.append(t)
        return z

    times = transport(x, velocity, num_steps).times
    expected = [i / num_steps for i in range(num_steps, 0, -1)]
    assert times.tolist() == expected
    assert [t.tolist() for t in seen] == [[time] * 3 for time in expected]
    assert times.dtype == x.dtype


def test_estimates_start_from_the_original_feature(x):
    result = transport(x, uneven, 4)
    assert torch.equal(result.estimates, x - result.velocities)


def test_input_is_not_modified(x):
    original = x.clone()
    transport(x, uneven, 4)
    assert torch.equal(x, original)


def test_a_permutation_of_the_batch_commutes(x):
    order = torch.tensor([2, 0, 1])
    permuted = transport(x[order], uneven, 4)
    assert torch.equal(permuted.endpoint, transport(x, uneven, 4).endpoint[order])


def test_gradients_flow_through_the_whole_chain(x):
    weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    # Z <- Z - wZ/2 twice gives x (1 - w/2)^2, whose derivative is -x (1 - w/2)
    transport(x, lambda z, t: weight * z, 2).endpoint.sum().backward()
    assert weight.grad.item() == pytest.approx(-x.sum().item() * 0.85, rel=1e-12)


def test_bad_arguments_are_refused(x):
    with pytest.raises(ValueError, match='num_steps must be 0 or more, but got -1'):
        transport(x, linear, -1)
    with pytest.raises(ValueError, match='valid names: .*rectified'):
        transport(x, linear, 1, schedule='euler')
