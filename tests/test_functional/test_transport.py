import math

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from mmkd_fm.functional import get_schedule, transport


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


@pytest.mark.parametrize(('solver', 'order'), [('euler', 1), ('midpoint', 2), ('heun', 2)])
@pytest.mark.parametrize(
    ('field', 'factor'),
    [
        (linear, math.exp(-1)),  # dz/dt = z from t = 1 to 0
        (lambda z, t: z * 2 * t[:, None, None, None], math.exp(-1)),  # z exp(t^2 - 1)
    ],
)
def test_solvers_converge_with_their_order(x, solver, order, field, factor):
    counts = [64, 128, 256, 512]
    exact = x * factor
    errors = [
        (transport(x, field, n, solver=solver).endpoint - exact).abs().max().item() for n in counts
    ]
    slopes = [math.log(a / b) / math.log(2) for a, b in zip(errors, errors[1:])]
    assert slopes == pytest.approx([order] * 3, abs=0.05)


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
    torch.testing.assert_close(result.endpoint, result.estimates.mean(dim=0), rtol=0, atol=1e-15)
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


def test_the_steps_that_are_kept_have_their_gradients(x):
    """Losses of another module read them: Z_2 = x (1 - w/2), v_1 = w x and v_2 = w Z_2."""
    weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    result = transport(x, lambda z, t: weight * z, 2)
    for kept, sign in ((result.velocities, 1), (result.estimates, -1)):
        (grad,) = torch.autograd.grad(kept.sum(), weight, retain_graph=True)
        assert grad.item() == pytest.approx(sign * x.sum().item() * (1 + 1 - 0.3), rel=1e-12)


@pytest.mark.parametrize('schedule', ['rectified', 'vp', 've'])
@pytest.mark.parametrize('num_steps', [1, 3, 8])
def test_a_state_moves_by_its_velocity_over_the_time_of_a_step(x, schedule, num_steps):
    """Also of a schedule that starts later; after the last step the time is 0."""
    seen = []

    def velocity(z, t):
        seen.append((z, t, uneven(z, t)))
        return seen[-1][2]

    times = transport(x, velocity, num_steps, schedule).times
    assert seen[0][0] is x and torch.equal(seen[0][1], times[:1].expand(3))
    assert times[-1].item() == pytest.approx(times[0].item() / num_steps, rel=1e-12)
    for (z, t, v), (after, later, _) in zip(seen, seen[1:]):
        expected = z + (later - t)[:, None, None, None] * v
        torch.testing.assert_close(after, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('schedule', ['rectified', 'vp', 've'])
@pytest.mark.parametrize('solver', ['euler', 'midpoint', 'heun'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_no_time_is_beyond_the_teacher(schedule, solver, dtype):
    """Rounded differences neither: a schedule of the user's may take the root of t."""
    x, seen = torch.zeros(1, 1, dtype=dtype), []
    for num_steps in range(1, 41):
        transport(x, lambda z, t: seen.append(t.item()) or z, num_steps, schedule, solver)
    assert min(seen) >= 0 and max(seen) <= 1


@pytest.mark.parametrize('solver', ['midpoint', 'heun'])
@pytest.mark.parametrize('num_steps', [1, 4])
def test_two_stage_solvers_by_hand(x, solver, num_steps):
    h, z = 1 / num_steps, x
    for i in range(num_steps, 0, -1):
        t, end = (torch.full((3,), value * h, dtype=x.dtype) for value in (i, i - 1))
        if solver == 'heun':
            first = uneven(z, t)
            z = z - h * (first + uneven(z - h * first, end)) / 2
        else:
            z = z - h * uneven(z - h / 2 * uneven(z, t), (t + end) / 2)
    result = transport(x, uneven, num_steps, solver=solver)
    torch.testing.assert_close(result.endpoint, z, rtol=0, atol=1e-14)
    torch.testing.assert_close(result.estimates, x - result.velocities, rtol=0, atol=1e-14)


@pytest.mark.parametrize('schedule', ['vp', 've'])
@pytest.mark.parametrize('solver', ['euler', 'midpoint', 'heun'])
@pytest.mark.parametrize('num_steps', [1, 3, 8])
def test_the_exact_velocity_leads_to_the_teacher(x, schedule, solver, num_steps):
    teacher = torch.randn_like(x)
    flow = get_schedule(schedule)
    result = transport(
        x, lambda z, t: flow.velocity(x, teacher, t), num_steps, schedule, solver=solver
    )
    torch.testing.assert_close(result.endpoint, teacher, rtol=0, atol=1e-11)
    assert result.times[0] == 1 - 1 / (2 * num_steps)


def test_the_mean_of_the_step_losses_is_the_loss(x):
    target = torch.randn_like(x)
    result = transport(x, uneven, 4, step_loss=lambda e, v, t: (e - target).square().sum() * t[0])
    expected = (result.estimates - target).square().sum(dim=(1, 2, 3, 4)) * result.times
    torch.testing.assert_close(result.loss, expected.mean(), rtol=1e-14, atol=0)
    assert transport(x, uneven, 4).loss is None


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors made inside that are still alive."""

    def __init__(self):
        super().__init__()
        self._storages = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_flatten(result)[0]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._storages[StorageWeakRef(storage)] = storage.nbytes()
        return result

    def count(self):
        return sum(nbytes for ref, nbytes in self._storages.items() if not ref.expired())


@pytest.fixture
def problem():
    """A network, its input and a step loss with many intermediate results."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(8, 8, 3, padding=1, bias=False),
        torch.nn.GroupNorm(1, 8),
        torch.nn.SiLU(),
        torch.nn.Conv2d(8, 8, 3, padding=1, bias=False),
    ).double()
    x = torch.randn(2, 8, 16, 16, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 8, 16, 16, dtype=torch.float64)

    def run(num_steps, **kwargs):
        return transport(
            x,
            lambda z, t: net(z + t[:, None, None, None]),
            num_steps,
            step_loss=lambda e, v, t: (torch.tanh(e) - teacher).square().mean(),
            **kwargs,
        )

    return run, x, list(net.parameters())


@pytest.mark.parametrize('schedule', ['rectified', 'vp', 've'])
def test_recomputed_steps_have_equal_gradients(problem, schedule):
    run, x, parameters = problem
    gradients = []
    for checkpoint in (False, True):
        result = run(3, checkpoint=checkpoint, keep_steps=False, schedule=schedule)
        total = result.loss + result.endpoint.square().mean()
        gradients.append(torch.autograd.grad(total, [x, *parameters]))
    assert all(map(torch.equal, *gradients))
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])


def test_recomputed_steps_take_one_copy_of_the_input_each(problem):
    run, x, _ = problem
    copies = {}
    for checkpoint in (False, True):
        for num_steps in (2, 10):
            with LiveBytes() as live:
                result = run(num_steps, checkpoint=checkpoint, keep_steps=False)
            copies[checkpoint, num_steps] = live.count() / (x.numel() * x.element_size())
            del result
    per_step = {c: (copies[c, 10] - copies[c, 2]) / 8 for c in (False, True)}
    assert per_step[True] == pytest.approx(1, abs=0.02)
    assert per_step[False] > 5


def test_steps_are_kept_only_when_asked_for(x):
    with torch.no_grad():
        result = transport(x, uneven, 4, keep_steps=False)
        assert result.estimates is result.velocities is None
        copies = {}
        for keep in (False, True):
            for n in (2, 10):
                with LiveBytes() as live:
                    kept = transport(x, uneven, n, keep_steps=keep)
                copies[keep, n] = live.count() / (x.numel() * x.element_size())
                del kept
    assert copies[False, 10] == pytest.approx(copies[False, 2], abs=0.1)
    assert copies[True, 10] - copies[True, 2] == pytest.approx(16, abs=0.1)
    assert torch.equal(result.endpoint, transport(x, uneven, 4).endpoint)


@pytest.mark.parametrize('num_steps', [-1, 1.5, '2', True, None])
def test_numbers_of_steps_that_are_none_are_refused(x, num_steps):
    with pytest.raises(ValueError, match=r'num_steps must be a whole number, 0 or more, but got'):
        transport(x, linear, num_steps)


def test_unknown_names_list_the_valid_ones(x):
    with pytest.raises(ValueError, match='valid names: .*rectified'):
        transport(x, linear, 1, schedule='euler')
    with pytest.raises(ValueError, match="unknown solver 'rk4'; valid names: euler, heun, midpoi"):
        transport(x, linear, 1, solver='rk4')


def test_a_velocity_of_another_shape_is_refused(x):
    with pytest.raises(ValueError, match=r'shape of its state, \(3, 4, 5, 5\), but got \(3, 1'):
        transport(x, lambda z, t: z[:, :1], 2)


@pytest.mark.parametrize('num_steps', [1, 4])
def test_states_replace_those_that_the_steps_before_ended_in(x, num_steps):
    seen = []

    def velocity(z, t):
        seen.append(z)
        return uneven(z, t)

    result = transport(x, velocity, num_steps, states=lambda t: x * t[:, None, None, None])
    expected = [x * t for t in result.times]
    torch.testing.assert_close(torch.stack(seen), torch.stack(expected), rtol=0, atol=0)
    velocities = [uneven(z, t.expand(len(x))) for z, t in zip(expected, result.times)]
    torch.testing.assert_close(result.velocities, torch.stack(velocities), rtol=0, atol=0)


@pytest.mark.parametrize('num_steps', [1, 2, 8])
def test_on_the_interpolants_the_true_velocity_ends_as_the_serial_transport(x, num_steps):
    """Of the rectified flow: its lines are straight, so both pass the same states."""
    schedule, teacher = get_schedule('rectified'), x.flip(0)

    def velocity(z, t):
        return schedule.velocity(x, teacher, t)

    forced = transport(x, velocity, num_steps, states=lambda t: schedule.interpolate(x, teacher, t))
    torch.testing.assert_close(forced.endpoint, transport(x, velocity, num_steps).endpoint)
    torch.testing.assert_close(forced.endpoint, teacher)
